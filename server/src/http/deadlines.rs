//! `POST /v1/leases/{id}/heartbeat`, `…/extend` and `…/keep`: all answer the lease with its deadlines, and
//! none is served to a lease's own credential when the token that the lease was asked for with is good no
//! more.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use remote_docker_api::{ExtendLease, KeepLease, Lease, LeaseId};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::ApiState;
use super::body::JsonBody;
use super::error::ApiError;
use super::own::{self, CalledBy, OwnLease};
use crate::audit::{Asked, Record};
use crate::lease::{Grant, LeasePhase, LeaseRow};
use crate::store::Moved;

/// `POST /v1/leases/{id}/heartbeat`: its holder is there.
pub(super) async fn heartbeat(
    State(api): State<Arc<ApiState>>,
    called: CalledBy,
    OwnLease(row): OwnLease,
) -> Result<Json<Lease>, ApiError> {
    may_prolong(&api, &called, row.id).await?;
    let moved = api.store.heartbeat(row.id, api.clock.now()).await?;
    answer(&api, row, moved)
}

/// `POST /v1/leases/{id}/extend`: it lasts at least until then.
pub(super) async fn extend(
    State(api): State<Arc<ApiState>>,
    called: CalledBy,
    OwnLease(row): OwnLease,
    JsonBody(request): JsonBody<ExtendLease>,
) -> Result<Json<Lease>, ApiError> {
    let by = may_prolong(&api, &called, row.id).await?;
    let (now, ahead) = (api.clock.now(), api.clock.ahead());
    let until = until(&request, now, ahead)?;
    let grant = match &row.phase {
        LeasePhase::Active(grant) if row.end_wish.is_none() => grant,
        _ => return Err(not_active(&row)),
    };
    let until = within_policy(until, grant, longest(&api, &row), ahead)?;
    let moved = api.store.extend(row.id, until, now, &by).await?;
    if let Moved::Done(row) = &moved {
        let until = until.saturating_add(ahead);
        tracing::info!(lease = %row.id, "lease {} is to last until {until}", row.id);
    }
    answer(&api, row, moved)
}

/// `POST /v1/leases/{id}/keep`: its holder is done, and its machine stays until then.
pub(super) async fn keep(
    State(api): State<Arc<ApiState>>,
    called: CalledBy,
    OwnLease(row): OwnLease,
    JsonBody(request): JsonBody<KeepLease>,
) -> Result<Json<Lease>, ApiError> {
    let by = may_prolong(&api, &called, row.id).await?;
    let (now, ahead) = (api.clock.now(), api.clock.ahead());
    if request.keep_s <= 0 {
        return Err(ApiError::InvalidExtension(
            "`keep_s` is not above zero; DELETE gives a lease back at once".to_owned(),
        ));
    }
    let grant = match &row.phase {
        LeasePhase::Active(grant) if row.end_wish.is_none() => grant,
        _ => return Err(not_active(&row)),
    };
    let until = now.checked_add(Duration::seconds(request.keep_s));
    let until = within_policy(until, grant, longest(&api, &row), ahead)?;
    let moved = api.store.keep(row.id, until, now, &by).await?;
    if let Moved::Done(row) = &moved {
        let until = until.saturating_add(ahead);
        tracing::info!(lease = %row.id, "lease {} is kept until {until}; its holder is done", row.id);
    }
    answer(&api, row, moved)
}

/// Who moves the deadline of a lease, if they may. A lease's own credential is good for as long as the token
/// behind it, else whoever took that token back would wait for the lease's last possible moment. To see
/// the lease and to give it back it stays good.
async fn may_prolong(
    api: &ApiState,
    CalledBy(caller, origin): &CalledBy,
    lease: LeaseId,
) -> Result<Asked, ApiError> {
    let by = Asked::by(caller, origin);
    if caller.lease.is_none() {
        return Ok(by);
    }
    let asked_with = api.store.asked_token(lease).await?;
    let good = asked_with.map_or(Ok(()), |token| api.authenticator.still_good(&token));
    let Err(refusal) = good else { return Ok(by) };
    let error = ApiError::AskerRefused(lease, refusal);
    api.audit.note(Record::access_refused(
        api.clock.wall(),
        by.credential,
        by.origin,
        error.code().1,
        error.detail(),
    ));
    Err(error)
}

/// The moment that is asked for, in server time; `None` when it is beyond the end of the calendar.
/// Clients name moments in wall time, which is `ahead`.
fn until(
    request: &ExtendLease,
    now: OffsetDateTime,
    ahead: Duration,
) -> Result<Option<OffsetDateTime>, ApiError> {
    let refuse = |what: &str| Err(ApiError::InvalidExtension(what.to_owned()));
    match (request.remaining_s, request.until) {
        (Some(_), Some(_)) => refuse("there are both `remaining_s` and `until`; one is expected"),
        (None, None) => refuse("there is neither `remaining_s` nor `until`; one is expected"),
        (Some(..=0), None) => refuse("`remaining_s` is not above zero"),
        (Some(seconds), None) => Ok(now.checked_add(Duration::seconds(seconds))),
        (None, Some(until)) => Ok(until.checked_sub(ahead)),
    }
}

/// How long this lease may last from when it was ready, in seconds.
fn longest(api: &ApiState, row: &LeaseRow) -> u32 {
    api.projects
        .terms(&row.project)
        .longest(api.lease.max_ttl_s)
}

/// What a lease has already is allowed in any case, also where the policy was changed meanwhile.
fn within_policy(
    until: Option<OffsetDateTime>,
    grant: &Grant,
    max_ttl_s: u32,
    ahead: Duration,
) -> Result<OffsetDateTime, ApiError> {
    let whole_life = Duration::seconds(max_ttl_s.into());
    let policy = grant.ready_at.checked_add(whole_life);
    let latest = policy.map_or(grant.expires_at, |policy| policy.max(grant.expires_at));
    match until {
        Some(until) if until <= latest => Ok(until),
        _ => {
            let latest = latest.saturating_add(ahead).format(&Rfc3339);
            let latest = latest.unwrap_or_default();
            Err(ApiError::InvalidExtension(format!(
                "the lease can last until {latest} at the latest: {max_ttl_s} s from when it was \
                 ready"
            )))
        }
    }
}

fn answer(api: &ApiState, seen: LeaseRow, moved: Moved) -> Result<Json<Lease>, ApiError> {
    match moved {
        Moved::Done(row) => Ok(Json(own::show(api, row))),
        Moved::NotActive(row) => Err(not_active(&row)),
        Moved::NoKeepalive => Err(ApiError::NoKeepalive(seen.id)),
        Moved::Unknown => Err(ApiError::LeaseNotFound(seen.id)),
    }
}

/// Why a call that needs an active lease can do nothing.
pub(super) fn not_active(row: &LeaseRow) -> ApiError {
    if row.phase == LeasePhase::Waiting && row.end_wish.is_none() {
        ApiError::LeaseNotActive(row.id)
    } else {
        ApiError::LeaseEnded(row.id)
    }
}
