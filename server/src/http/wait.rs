//! Waiting for the reconciler to bring a lease where a client wants it.

use std::sync::Arc;
use std::time::Duration;

use remote_docker_api::{EndReason, LeaseId};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::Instrument;

use super::ApiState;
use super::error::ApiError;
use crate::lease::LeaseRow;
use crate::store::Wish;

/// How waiting ended.
pub(super) enum Waited {
    /// The lease is as wished.
    Arrived(LeaseRow),
    /// Time is up; this is the lease as it was last seen.
    TimedOut(LeaseRow),
    /// The server stops.
    Stopping,
}

/// Waits until `arrived` says so of the lease, at most for `longest`.
pub(super) async fn wait_until(
    api: &ApiState,
    id: LeaseId,
    longest: Duration,
    arrived: impl Fn(&LeaseRow) -> bool,
) -> Result<Waited, ApiError> {
    let deadline = Instant::now() + longest;
    // Before the first look, so that no change falls between a look and the wait for the next.
    let mut changes = api.store.changes();
    loop {
        let row = api.store.lease(id).await?.ok_or(ApiError::Vanished(id))?;
        if arrived(&row) {
            return Ok(Waited::Arrived(row));
        }
        tokio::select! {
            biased;
            () = api.stopping.cancelled() => return Ok(Waited::Stopping),
            () = tokio::time::sleep_until(deadline) => return Ok(Waited::TimedOut(row)),
            changed = changes.changed() => changed.map_err(|_| ApiError::Stopping)?,
        }
    }
}

/// The line that a client holds while its lease is being made. A client that hangs up makes its
/// handler's future be dropped, and the line with it: then nobody wants the lease any more.
pub(super) struct Line {
    api: Arc<ApiState>,
    lease: Option<LeaseId>,
}

impl Line {
    /// To be taken before the lease is written, as the client may hang up during that, too.
    pub(super) fn hold(api: Arc<ApiState>, lease: LeaseId) -> Self {
        let lease = Some(lease);
        Self { api, lease }
    }

    /// The client has its answer; the lease lives on without the line.
    pub(super) fn answered(mut self) {
        self.lease = None;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        // Without a runtime the whole server goes down; its next start gives up attended leases.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let api = self.api.clone();
        let give_up = async move {
            match api.store.wish_end(lease, EndReason::ClientGone).await {
                Ok(Wish::Recorded) => {
                    tracing::info!(%lease, "lease {lease}: its client went away before its answer");
                }
                // It hung up before the lease was written, or the lease had ended by itself.
                Ok(Wish::Unknown | Wish::AlreadyEnding) => {}
                Err(error) => tracing::error!(
                    %lease,
                    "lease {lease}: its client went away, but that could not be written: {error}"
                ),
            }
        };
        self.api
            .background
            .spawn_on(give_up.in_current_span(), &runtime);
    }
}
