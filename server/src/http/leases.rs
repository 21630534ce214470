//! `/v1/leases`: shown, listed, given back. How they are asked for is in `create.rs`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use remote_docker_api::LeaseList;
use serde::Deserialize;

use super::ApiState;
use super::error::ApiError;
use super::order;
use super::own::{self, CalledBy, OwnLease};
use super::wait::{Waited, wait_until};
use crate::audit::Asked;
use crate::lease::{LeasePhase, LeaseRow};
use crate::store::Wish;

/// `GET /v1/leases`: those of the caller's project that have not ended, oldest first.
pub(super) async fn list(
    State(api): State<Arc<ApiState>>,
    CalledBy(caller, _): CalledBy,
) -> Result<Json<LeaseList>, ApiError> {
    let rows = api.store.live_leases().await?.into_iter();
    let rows = rows.filter(|row| *row.project == *caller.project);
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
///
/// *Changes* means: from what it was when the call came, or from what the caller has seen, if it names
/// that in `If-None-Match`. Only the latter misses nothing between two calls.
pub(super) async fn show(
    State(api): State<Arc<ApiState>>,
    OwnLease(row): OwnLease,
    query: Result<Query<ShowQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::InvalidQuery(error.body_text()))?;
    let wait = order::check_wait(query.wait_s, 0, &api.lease)?;
    let known = headers
        .get(header::IF_NONE_MATCH)
        .map(HeaderValue::as_bytes);
    let is_known = |row: &LeaseRow| known == Some(tag(row).as_bytes());
    let never_changes = matches!(row.phase, LeasePhase::Ended { .. });
    let is_news = known.is_some() && !is_known(&row);
    let row = if wait.is_zero() || never_changes || is_news {
        row
    } else {
        let seen = row.generation;
        let news = api.store.news_of(row.id);
        match wait_until(&api, row.id, news, wait, |row| row.generation != seen).await? {
            Waited::Arrived(row) | Waited::TimedOut(row) => row,
            Waited::Stopping => row,
        }
    };
    let tagged = [(header::ETAG, tag(&row))];
    if is_known(&row) {
        return Ok((StatusCode::NOT_MODIFIED, tagged).into_response());
    }
    let (id, troubles) = (row.id, row.troubles);
    let mut lease = own::show(&api, row);
    if troubles > 0 {
        let ahead = api.clock.ahead();
        lease.warnings = api.store.troubles(id).await?;
        for warning in &mut lease.warnings {
            warning.at = warning.at.saturating_add(ahead);
        }
    }
    Ok((tagged, Json(lease)).into_response())
}

/// Names what a lease is now, as `ETag` does. A weak one: its place in the queue is not part of it.
pub(super) fn tag(row: &LeaseRow) -> String {
    format!("W/\"{}\"", row.generation)
}

/// `DELETE /v1/leases/{id}`: the lease is given back; again, or after its end, is just as well.
pub(super) async fn release(
    State(api): State<Arc<ApiState>>,
    CalledBy(caller, origin): CalledBy,
    OwnLease(row): OwnLease,
) -> Result<StatusCode, ApiError> {
    let id = row.id;
    let by = Asked::by(&caller, &origin);
    match api.store.release(id, &by).await? {
        Wish::Recorded => {
            tracing::info!(lease = %id, "lease {id} is given back");
        }
        Wish::AlreadyEnding => {}
        Wish::Unknown => return Err(ApiError::LeaseNotFound(id)),
    }
    Ok(StatusCode::NO_CONTENT)
}
