//! The line that a client holds while its lease is being made. When nobody holds one any more and
//! nobody got an answer, nobody wants the lease.
//!
//! Calls with one idempotency key share a lease, so a lease may have several lines. After a hang-up of
//! such a client the same request is expected once more, so its lease is given up only when none comes
//! for [`PATIENCE`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use remote_docker_api::{EndReason, LeaseId};
use tokio::runtime::Handle;
use tracing::Instrument;

use super::ApiState;
use crate::lease::LeasePhase;
use crate::store::{StoreError, Wish};

/// How long a client whose connection broke may take to send its request again.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the database is left alone that could not write that a client went away.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Who holds a line, by lease.
#[derive(Debug, Default)]
pub struct Lines(Mutex<HashMap<LeaseId, Holders>>);

#[derive(Debug, Default)]
struct Holders {
    /// How many calls wait.
    waiting: usize,
    /// The lease goes when nobody holds a line any more. Not so before somebody has seen that it
    /// waits for those who do: it may have been answered long ago.
    depends: bool,
    /// Somebody has the lease as an answer, so it stands on its own.
    answered: bool,
    /// Counts the times when nobody was left; one that waits patiently sees whether anybody came
    /// meanwhile.
    left_alone: u64,
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, HashMap<LeaseId, Holders>> {
        // Each change is a single step, so a panic in between leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn waiting(&self, lease: LeaseId) -> usize {
        self.lock().get(&lease).map_or(0, |holders| holders.waiting)
    }

    /// Whether nobody came since the lease was left alone for this time; then it is forgotten here.
    fn take_if_alone(&self, lease: LeaseId, time: u64) -> bool {
        let mut lines = self.lock();
        let alone = lines
            .get(&lease)
            .is_some_and(|holders| holders.waiting == 0 && holders.left_alone == time);
        if alone {
            lines.remove(&lease);
        }
        alone
    }
}

/// One line. A client that hangs up makes its handler's future be dropped, and the line with it.
pub(super) struct Line {
    api: Arc<ApiState>,
    lease: LeaseId,
    /// Whether the client can come back for this lease.
    repeatable: bool,
}

impl Line {
    /// To be taken before the lease is written, as the client may hang up during that, too.
    pub(super) fn hold(api: Arc<ApiState>, lease: LeaseId, repeatable: bool) -> Self {
        let line = Self::join(api, lease, repeatable);
        line.depend();
        line
    }

    /// A further one for a lease that is there already, of which is not known yet how it stands.
    pub(super) fn join(api: Arc<ApiState>, lease: LeaseId, repeatable: bool) -> Self {
        api.lines.lock().entry(lease).or_default().waiting += 1;
        Self {
            api,
            lease,
            repeatable,
        }
    }

    /// The lease waits for those who hold its lines.
    pub(super) fn depend(&self) {
        if let Some(holders) = self.api.lines.lock().get_mut(&self.lease) {
            holders.depends = true;
        }
    }

    /// Whether no other call waits for the same lease.
    pub(super) fn is_last(&self) -> bool {
        let lines = self.api.lines.lock();
        lines.get(&self.lease).is_none_or(|one| one.waiting <= 1)
    }

    /// The client has its answer; the lease lives on without the line.
    pub(super) fn answered(self) {
        if let Some(holders) = self.api.lines.lock().get_mut(&self.lease) {
            holders.answered = true;
        }
    }

    async fn give_up(api: Arc<ApiState>, lease: LeaseId, repeatable: bool, time: u64) {
        if repeatable {
            tokio::select! {
                biased;
                // The client may come back to the next server, which will wait for it in its turn.
                () = api.stopping.cancelled() => return,
                () = tokio::time::sleep(PATIENCE) => {}
            }
        }
        if !api.lines.take_if_alone(lease, time) {
            return;
        }
        let wish = loop {
            match api.store.wish_end(lease, EndReason::ClientGone).await {
                Ok(wish) => break wish,
                Err(error) => tracing::error!(
                    %lease,
                    "lease {lease}: its client went away, but that could not be written, which is \
                     tried again: {error}"
                ),
            }
            // Or it would get a machine that nobody knows of.
            tokio::select! {
                biased;
                () = api.stopping.cancelled() => return,
                () = tokio::time::sleep(PAUSE_AFTER_FAILURE) => {}
            }
        };
        match wish {
            Wish::Recorded => {
                tracing::info!(%lease, "lease {lease}: its client went away before its answer");
            }
            // It hung up before the lease was written, or the lease had ended by itself.
            Wish::Unknown | Wish::AlreadyEnding => {}
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let time = {
            let mut lines = self.api.lines.lock();
            let Some(holders) = lines.get_mut(&self.lease) else {
                return;
            };
            holders.waiting -= 1;
            if holders.waiting > 0 {
                return;
            }
            if holders.answered || !holders.depends {
                lines.remove(&self.lease);
                return;
            }
            holders.left_alone += 1;
            holders.left_alone
        };
        // Without a runtime the whole server goes down; its next start gives up attended leases.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let give_up = Self::give_up(self.api.clone(), self.lease, self.repeatable, time);
        self.api
            .background
            .spawn_on(give_up.in_current_span(), &runtime);
    }
}

/// To be called once, when the API begins to serve: leases that calls waited for when the last server
/// stopped, and that the same calls can ask for again, are given up unless one does soon.
///
/// # Errors
/// When the database fails.
pub async fn expect_clients_back(api: &Arc<ApiState>) -> Result<(), StoreError> {
    for row in api.store.live_leases().await? {
        // `Store::startup` has ended those whose clients cannot come back.
        if row.attended && row.phase == LeasePhase::Waiting && row.end_wish.is_none() {
            drop(Line::hold(api.clone(), row.id, true));
        }
    }
    Ok(())
}
