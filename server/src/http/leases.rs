//! `/v1/leases`: shown, listed, given back. How they are asked for is in `create.rs`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use remote_docker_api::{EndReason, Lease, LeaseList};
use serde::Deserialize;

use super::ApiState;
use super::error::ApiError;
use super::order;
use super::own::{self, OwnLease};
use super::projects::Project;
use super::wait::{Waited, wait_until};
use crate::lease::LeasePhase;
use crate::store::Wish;

/// `GET /v1/leases`: those of the caller's project that have not ended, oldest first.
pub(super) async fn list(
    State(api): State<Arc<ApiState>>,
    Project(project): Project,
) -> Result<Json<LeaseList>, ApiError> {
    let rows = api.store.live_leases().await?.into_iter();
    let rows = rows.filter(|row| *row.project == *project);
    let leases = rows.map(|row| own::show(&api, row)).collect();
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
    OwnLease(row): OwnLease,
    query: Result<Query<ShowQuery>, QueryRejection>,
) -> Result<Json<Lease>, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::InvalidQuery(error.body_text()))?;
    let wait = order::check_wait(query.wait_s, 0, &api.lease)?;
    if wait.is_zero() || matches!(row.phase, LeasePhase::Ended { .. }) {
        return Ok(Json(own::show(&api, row)));
    }
    let seen = row.generation;
    let row = match wait_until(&api, row.id, wait, |row| row.generation != seen).await? {
        Waited::Arrived(row) | Waited::TimedOut(row) => row,
        Waited::Stopping => row,
    };
    Ok(Json(own::show(&api, row)))
}

/// `DELETE /v1/leases/{id}`: the lease is given back; again, or after its end, is just as well.
pub(super) async fn release(
    State(api): State<Arc<ApiState>>,
    OwnLease(row): OwnLease,
) -> Result<StatusCode, ApiError> {
    let id = row.id;
    match api.store.wish_end(id, EndReason::Released).await? {
        Wish::Recorded => {
            tracing::info!(lease = %id, "lease {id} is given back");
        }
        Wish::AlreadyEnding => {}
        Wish::Unknown => return Err(ApiError::LeaseNotFound(id)),
    }
    Ok(StatusCode::NO_CONTENT)
}
