//! Waiting for the reconciler to bring a lease where a client wants it.

use std::sync::Arc;
use std::time::Duration;

use remote_docker_api::LeaseId;
use tokio::time::Instant;

use super::ApiState;
use super::error::ApiError;
use crate::lease::LeaseRow;
use crate::store::LeaseNews;

/// How waiting ended.
pub(super) enum Waited {
    /// The lease is as wished.
    Arrived(LeaseRow),
    /// Time is up; this is the lease as it was last seen.
    TimedOut(LeaseRow),
    /// The server stops.
    Stopping,
}

/// Waits until `arrived` says so of the lease that the news are of, at most for `longest`.
pub(super) async fn wait_until(
    api: &ApiState,
    id: LeaseId,
    mut news: LeaseNews,
    longest: Duration,
    arrived: impl Fn(&LeaseRow) -> bool,
) -> Result<Waited, ApiError> {
    let deadline = Instant::now() + longest;
    loop {
        let row = news.lease(&api.store).await?;
        let row = row.ok_or(ApiError::Vanished(id))?;
        if arrived(&row) {
            return Ok(Waited::Arrived(Arc::unwrap_or_clone(row)));
        }
        tokio::select! {
            biased;
            () = api.stopping.cancelled() => return Ok(Waited::Stopping),
            () = tokio::time::sleep_until(deadline) => {
                return Ok(Waited::TimedOut(Arc::unwrap_or_clone(row)));
            }
            () = news.changed() => {}
        }
    }
}
