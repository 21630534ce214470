//! `/v1/leases`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use remote_docker_api::{CreateLease, EndReason, Lease, LeaseId, LeaseList};
use serde::Deserialize;
use time::OffsetDateTime;

use super::ApiState;
use super::body::JsonBody;
use super::error::ApiError;
use super::order::{self, Order};
use super::view;
use super::wait::{Line, Waited, wait_until};
use crate::clock::random_bytes;
use crate::failpoint;
use crate::lease::{LeasePhase, LeaseRow};
use crate::store::{NewLease, Wish};

/// `POST /v1/leases`: 201 with an active lease, or 202 with a waiting one if the call does not wait.
pub(super) async fn create(
    State(api): State<Arc<ApiState>>,
    JsonBody(request): JsonBody<CreateLease>,
) -> Result<Response, ApiError> {
    let order = order::check(request, &api.catalogue, &api.lease)?;
    if api.stopping.is_cancelled() {
        return Err(ApiError::Stopping);
    }
    if let Some(failures) = api.readiness.failures() {
        return Err(ApiError::NotReady(failures));
    }
    let wait = order.wait;
    let new = new_lease(&api, order)?;
    let line = Line::hold(api.clone(), new.id);
    let row = api.store.insert_lease(&new).await?;
    failpoint::hit("lease-inserted");
    tracing::info!(lease = %new.id, "lease {} is asked for", new.id);
    if wait.is_zero() {
        line.answered();
        return Ok(created(&api, StatusCode::ACCEPTED, row));
    }
    match wait_until(&api, new.id, wait, is_decided).await? {
        Waited::Arrived(row) if is_granted(&row) => {
            line.answered();
            Ok(created(&api, StatusCode::CREATED, row))
        }
        Waited::Arrived(row) => Err(given_up(&api, &row)),
        Waited::TimedOut(row) => {
            // The reconciler gives it up at the same moment; whoever is first.
            api.store.wish_end(new.id, EndReason::WaitTimeout).await?;
            line.answered();
            Err(given_up(&api, &row))
        }
        // The line drops: the client is told that it gets nothing.
        Waited::Stopping => Err(ApiError::Stopping),
    }
}

/// `GET /v1/leases`: those that have not ended, oldest first.
pub(super) async fn list(State(api): State<Arc<ApiState>>) -> Result<Json<LeaseList>, ApiError> {
    let rows = api.store.live_leases().await?;
    let leases = rows.into_iter().map(|row| show_row(&api, row)).collect();
    Ok(Json(LeaseList { leases }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShowQuery {
    wait_s: Option<i64>,
}

/// `GET /v1/leases/{id}`: with `?wait_s=` it answers when the lease changes, or when that time is
/// over, whichever comes first. An ended lease never changes, so it is answered at once.
pub(super) async fn show(
    State(api): State<Arc<ApiState>>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<ShowQuery>, QueryRejection>,
) -> Result<Json<Lease>, ApiError> {
    let id = read_id(id)?;
    let Query(query) = query.map_err(|error| ApiError::InvalidQuery(error.body_text()))?;
    let wait = order::check_wait(query.wait_s, 0, &api.lease)?;
    let row = find(&api, id).await?;
    if wait.is_zero() || matches!(row.phase, LeasePhase::Ended { .. }) {
        return Ok(Json(show_row(&api, row)));
    }
    let seen = row.generation;
    let row = match wait_until(&api, id, wait, |row| row.generation != seen).await? {
        Waited::Arrived(row) | Waited::TimedOut(row) => row,
        Waited::Stopping => row,
    };
    Ok(Json(show_row(&api, row)))
}

/// `DELETE /v1/leases/{id}`: the lease is given back; again, or after its end, is just as well.
pub(super) async fn release(
    State(api): State<Arc<ApiState>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let id = read_id(id)?;
    match api.store.wish_end(id, EndReason::Released).await? {
        Wish::Recorded => {
            tracing::info!(lease = %id, "lease {id} is given back");
        }
        Wish::AlreadyEnding => {}
        Wish::Unknown => return Err(ApiError::LeaseNotFound(id)),
    }
    Ok(StatusCode::NO_CONTENT)
}

fn new_lease(api: &ApiState, order: Order) -> Result<NewLease, ApiError> {
    let now = api.clock.now();
    let attended = !order.wait.is_zero();
    // A lease that nobody holds the line for waits as long as one could.
    let wait_until: OffsetDateTime = if attended {
        now + order.wait
    } else {
        now + time::Duration::seconds(api.lease.max_wait_s.into())
    };
    Ok(NewLease {
        id: LeaseId::from_bits(u64::from_be_bytes(random_bytes()?)),
        key: order.key,
        ttl_s: order.ttl_s,
        labels: order.labels,
        client_csr_pem: order.client_csr_pem,
        created_at: now,
        wait_until,
        attended,
    })
}

/// Whether waiting for a machine is over, one way or the other.
fn is_decided(row: &LeaseRow) -> bool {
    !matches!(row.phase, LeasePhase::Waiting) || row.end_wish.is_some()
}

fn is_granted(row: &LeaseRow) -> bool {
    matches!(row.phase, LeasePhase::Active(_)) && row.end_wish.is_none()
}

/// Why a lease came to nothing.
fn given_up(api: &ApiState, row: &LeaseRow) -> ApiError {
    let reason = match &row.phase {
        LeasePhase::Ending { end, .. } | LeasePhase::Ended { end, .. } => Some(end.reason),
        LeasePhase::Waiting | LeasePhase::Active(_) => row.end_wish,
    };
    let what = match reason {
        Some(EndReason::Drained) => {
            return ApiError::NotReady("it gives up its machines and stops".to_owned());
        }
        None | Some(EndReason::WaitTimeout) => format!(
            "no `{}` machine with engine {} became ready in time",
            row.key.size, row.key.engine
        ),
        Some(EndReason::Released) => {
            format!("lease {} was given back while it waited", row.id)
        }
        Some(_) => format!("lease {} ended while it waited", row.id),
    };
    let why = api.readiness.troubles();
    ApiError::NoCapacity(match why {
        Some(why) => format!("{what} ({why})"),
        None => format!("{what}: all that the host can hold are in use or still starting"),
    })
}

fn read_id(id: Result<Path<String>, PathRejection>) -> Result<LeaseId, ApiError> {
    // What is not even UTF-8 is no id either.
    let text = id.map_or_else(|_| String::new(), |Path(text)| text);
    Ok(text.parse()?)
}

async fn find(api: &ApiState, id: LeaseId) -> Result<LeaseRow, ApiError> {
    api.store
        .lease(id)
        .await?
        .ok_or(ApiError::LeaseNotFound(id))
}

fn created(api: &ApiState, status: StatusCode, row: LeaseRow) -> Response {
    let location = format!("/v1/leases/{}", row.id);
    let body = Json(show_row(api, row));
    (status, [(header::LOCATION, location)], body).into_response()
}

fn show_row(api: &ApiState, row: LeaseRow) -> Lease {
    view::lease(row, &api.relay_host)
}
