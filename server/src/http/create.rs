//! `POST /v1/leases`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use remote_docker_api::{CreateLease, Doing, EndReason, LeaseId, Queue, Secret};
use time::OffsetDateTime;

use super::ApiState;
use super::body::JsonBody;
use super::error::ApiError;
use super::leases::tag;
use super::lines::Line;
use super::order;
use super::own::{self, CalledBy};
use super::wait::{Waited, wait_until};
use crate::access::Caller;
use crate::audit::{Asked, Origin, Record};
use crate::clock::random_bytes;
use crate::failpoint;
use crate::lease::{LeasePhase, LeaseRow, Quota};
use crate::store::{Idempotency, Inserted, LeaseNews, NewLease};

/// How long a call that does not wait is held so that it can tell the new lease's place in the queue.
const OUTLOOK_PAUSE: Duration = Duration::from_millis(100);
/// How much of what machines that failed had said goes into an answer, in characters.
const DETAIL_CHARS: usize = 4000;

/// `POST /v1/leases`: 201 with an active lease, 202 with a waiting one if the call does not wait, or
/// 200 with the lease that the same request made before.
pub(super) async fn create(
    State(api): State<Arc<ApiState>>,
    CalledBy(caller, origin): CalledBy,
    headers: HeaderMap,
    JsonBody(request): JsonBody<CreateLease>,
) -> Result<Response, ApiError> {
    let key = order::idempotency_key(&headers);
    let repeatable = matches!(key, Ok(Some(_)));
    let new = key.and_then(|key| new_lease(&api, &caller, &origin, key, request));
    let (new, wait) = new.inspect_err(|error| refused(&api, &caller, &origin, error))?;
    let line = Line::hold(api.clone(), new.id, repeatable);
    // Before there is the lease, so that it need not be looked up.
    let news = api.store.news_of(new.id);
    match api.store.insert_lease(&new).await? {
        Inserted::New(row) => {
            failpoint::hit("lease-inserted");
            tracing::info!(lease = %new.id, "lease {} is asked for", new.id);
            follow(&api, Some(line), row, news, wait, StatusCode::CREATED).await
        }
        Inserted::Known(row) => {
            // No lease has the drawn id, so nobody misses that line.
            line.answered();
            tracing::info!(lease = %row.id, "lease {} is asked for again", row.id);
            again(&api, row, wait).await
        }
        Inserted::Conflict => {
            line.answered();
            let error = ApiError::IdempotencyConflict;
            refused(&api, &caller, &origin, &error);
            Err(error)
        }
    }
}

/// Answers a request that was sent before, with the lease that it made then.
async fn again(api: &Arc<ApiState>, row: LeaseRow, wait: Duration) -> Result<Response, ApiError> {
    let line = Line::join(api.clone(), row.id, true);
    let id = row.id;
    let news = api.store.news_of(id);
    // Looked at after the line was taken: whoever waits from here on, waits together with the first
    // caller or after it has gone.
    let row = api.store.lease(id).await?.ok_or(ApiError::Vanished(id))?;
    if is_decided(&row) {
        line.answered();
        return Ok(answer(api, StatusCode::OK, row));
    }
    if row.attended {
        line.depend();
        return follow(api, Some(line), row, news, wait, StatusCode::OK).await;
    }
    // The first caller has its answer already: the lease stands without anybody on the line.
    line.answered();
    follow(api, None, row, news, wait, StatusCode::OK).await
}

/// Waits with the client for its machine, if it wants to, and answers. Without a line the lease is
/// not the caller's to give up.
async fn follow(
    api: &Arc<ApiState>,
    line: Option<Line>,
    row: LeaseRow,
    news: LeaseNews,
    wait: Duration,
    granted: StatusCode,
) -> Result<Response, ApiError> {
    let answered = |line: Option<Line>| line.into_iter().for_each(Line::answered);
    if wait.is_zero() {
        answered(line);
        await_outlook(api, row.id).await;
        return Ok(answer(api, StatusCode::ACCEPTED, row));
    }
    match wait_until(api, row.id, news, wait, is_decided).await? {
        Waited::Arrived(row) if is_granted(&row) => {
            answered(line);
            Ok(answer(api, granted, row))
        }
        Waited::Arrived(row) => {
            answered(line);
            Err(given_up(api, &row).await)
        }
        Waited::TimedOut(row) => {
            let told = given_up(api, &row).await;
            if line.as_ref().is_some_and(Line::is_last) {
                // The reconciler gives it up at the same moment; whoever is first.
                api.store.wish_end(row.id, EndReason::WaitTimeout).await?;
                answered(line);
            }
            Err(told)
        }
        // The line drops: the client is told that it gets nothing.
        Waited::Stopping => Err(ApiError::Stopping),
    }
}

/// Notes in the audit log that a request made no lease.
fn refused(api: &ApiState, caller: &Caller, origin: &Origin, error: &ApiError) {
    let (at, origin) = (api.clock.wall(), origin.clone());
    let record = Record::lease_refused(at, caller, origin, error.code().1, error.detail());
    api.audit.note(record);
}

/// The lease that is asked for and how long the call waits for it, if it can be had.
fn new_lease(
    api: &ApiState,
    caller: &Caller,
    origin: &Origin,
    key: Option<String>,
    request: CreateLease,
) -> Result<(NewLease, Duration), ApiError> {
    let (project, terms) = (&caller.project, api.projects.terms(&caller.project));
    let egress = order::check_egress(request.egress, &api.egress, project, &terms)?;
    let order = order::check(request, &api.catalogue, &api.lease, egress, project, &terms)?;
    if api.stopping.is_cancelled() {
        return Err(ApiError::Stopping);
    }
    if let Some(failures) = api.readiness.failures() {
        return Err(ApiError::NotReady(failures));
    }
    let wait = order.wait;
    let now = api.clock.now();
    let attended = !order.wait.is_zero();
    // A lease that nobody holds the line for waits as long as one could.
    let wait_until: OffsetDateTime = if attended {
        now + order.wait
    } else {
        now + time::Duration::seconds(api.lease.max_wait_s.into())
    };
    let digest = order.digest;
    let new = NewLease {
        id: LeaseId::from_bits(u64::from_be_bytes(random_bytes()?)),
        project: caller.project.to_string(),
        key: order.key,
        ttl_s: order.ttl_s,
        keepalive_s: order.keepalive_s,
        idle_s: order.idle_s,
        egress: order.egress,
        idempotency: key.map(|key| Idempotency { key, digest }),
        labels: order.labels,
        client_csr_pem: order.client_csr_pem,
        created_at: now,
        wait_until,
        attended,
        asked: Asked::by(caller, origin),
        asked_token: caller.token.clone(),
    };
    Ok((new, wait))
}

/// Gives the reconciler a moment to say where the new lease stands.
async fn await_outlook(api: &ApiState, id: LeaseId) {
    let mut outlook = api.outlook.clone();
    let known = outlook.wait_for(|outlook| outlook.contains_key(&id));
    // Without it the answer is as good, only shorter.
    let _ = tokio::time::timeout(OUTLOOK_PAUSE, known).await;
}

/// Whether waiting for a machine is over, one way or the other.
fn is_decided(row: &LeaseRow) -> bool {
    !matches!(row.phase, LeasePhase::Waiting) || row.end_wish.is_some()
}

fn is_granted(row: &LeaseRow) -> bool {
    matches!(row.phase, LeasePhase::Active(_)) && row.end_wish.is_none()
}

/// Whether its own project keeps this lease waiting. What those who wait are told may be gone by now, as
/// the reconciler gives them up at the same moment.
async fn waits_for_quota(api: &ApiState, row: &LeaseRow, queue: Option<&Queue>) -> bool {
    if let Some(queue) = queue {
        return queue.doing == Doing::Quota;
    }
    let quota = api.projects.terms(&row.project).quota;
    if quota == Quota::default() {
        return false;
    }
    let memory = |row: &LeaseRow| api.catalogue.memory_mib(&row.key.size).unwrap_or_default();
    let held = api.store.live_leases().await.unwrap_or_default();
    let held = held.iter().filter(|other| {
        other.project == row.project && matches!(other.phase, LeasePhase::Active(_))
    });
    !quota.has_room(held.map(memory), memory(row))
}

/// Why a lease came to nothing.
async fn given_up(api: &ApiState, row: &LeaseRow) -> ApiError {
    let (reason, detail) = match &row.phase {
        LeasePhase::Ending { end, .. } | LeasePhase::Ended { end, .. } => {
            (Some(end.reason), end.detail.as_deref())
        }
        LeasePhase::Waiting | LeasePhase::Active(_) => (row.end_wish, None),
    };
    let what = match reason {
        Some(EndReason::StartFailed) => return start_failed(row, detail),
        None | Some(EndReason::WaitTimeout) => format!(
            "no `{}` machine with engine {} became ready in time",
            row.key.size, row.key.engine
        ),
        Some(EndReason::Released) => {
            format!("lease {} was given back while it waited", row.id)
        }
        Some(_) => format!("lease {} ended while it waited", row.id),
    };
    let queue = api.outlook.borrow().get(&row.id).cloned();
    let place = queue.as_ref().map_or_else(String::new, place);
    let timed_out = matches!(reason, None | Some(EndReason::WaitTimeout));
    if timed_out && waits_for_quota(api, row, queue.as_ref()).await {
        return ApiError::QuotaExceeded(format!(
            "{what}{place}: the project `{}` has as many machines as it may at a time",
            row.project
        ));
    }
    let detail = match api.readiness.troubles() {
        Some(why) => format!("{what}{place} ({why})"),
        None => format!("{what}{place}: all that the host can hold are in use or still starting"),
    };
    let estimated_wait_s = queue.and_then(|queue| queue.estimated_wait_s);
    ApiError::NoCapacity {
        detail,
        estimated_wait_s,
    }
}

fn place(queue: &Queue) -> String {
    let place = format!("; it was number {} in the queue", queue.position);
    match queue.estimated_wait_s {
        Some(seconds) => format!("{place}, with about {seconds} s to wait"),
        None => place,
    }
}

fn start_failed(row: &LeaseRow, detail: Option<&str>) -> ApiError {
    let what = format!(
        "one `{}` machine with engine {} after the other failed to become ready",
        row.key.size, row.key.engine
    );
    ApiError::StartFailed(match detail {
        // What was said last says most.
        Some(detail) => {
            let skipped = detail.chars().count().saturating_sub(DETAIL_CHARS);
            let end: String = detail.chars().skip(skipped).collect();
            format!("{what}: {end}")
        }
        None => what,
    })
}

fn answer(api: &ApiState, status: StatusCode, row: LeaseRow) -> Response {
    let location = format!("/v1/leases/{}", row.id);
    let headers = [(header::LOCATION, location), (header::ETAG, tag(&row))];
    let token = api.authenticator.lease_token(row.id, &row.project);
    let mut lease = own::show(api, row);
    // Only whoever makes a lease is told: who may see it need not be one who may end it.
    lease.token = token.map(Secret::new);
    (status, headers, Json(lease)).into_response()
}
