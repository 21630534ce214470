//! The steps that take time. Each runs beside the loop, touches one VM, writes its outcome into the
//! store by compare-and-set and reports it to the loop. There are no retries in here: a step that
//! failed leaves its VM to be destroyed, and the planner decides what follows.

mod activate;
mod admit;
mod resume;
mod start;
mod tear_down;
mod template;

use std::sync::Arc;
use std::time::Duration;

use remote_docker_api::StepTiming;

use super::Settings;
use super::look::Since;
use super::memory::{Admitted, Keyed, Started};
use crate::clock::Clock;
use crate::guest::{GuestError, Link};
use crate::hypervisor::template::{Checked, TemplateError};
use crate::hypervisor::{Hypervisor, HypervisorError};
use crate::ids::VmId;
use crate::lease::{DestroyReason, PoolKey, Shown, VmPhase, VmRow};
use crate::pki::PkiError;
use crate::store::{Store, StoreError};

pub(super) use activate::activate;
#[cfg(test)]
pub(super) use admit::ADMIT_LIMIT;
pub(super) use admit::{admit, readmit};
pub(super) use resume::resume;
pub(super) use start::start;
pub(super) use tear_down::tear_down;
pub(super) use template::{build_template, template_key};

/// How much is kept of what a machine said that failed, in bytes.
const LAST_WORDS_BYTES: usize = 4096;

/// How long reading that may take.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(2);

/// What every job may use.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) store: Arc<Store>,
    pub(super) hypervisor: Arc<dyn Hypervisor>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Arc<Settings>,
}

/// What a job came to.
pub(super) enum Outcome {
    Started {
        vm: VmId,
        key: PoolKey,
        cloned: bool,
        result: Result<Started, Failed>,
    },
    Activated {
        vm: VmId,
        key: PoolKey,
        cloned: bool,
        result: Result<Box<(Keyed, Link)>, Failed>,
    },
    /// A machine that is ready for a lease.
    Admitted {
        vm: VmId,
        key: PoolKey,
        result: Result<Admitted, Failed>,
    },
    /// A machine of an active lease, whether or not it could be told.
    Readmitted,
    TornDown {
        vm: VmId,
        result: Result<(), JobError>,
    },
    TemplateBuilt {
        key: PoolKey,
        result: Result<Checked, JobError>,
    },
    TemplateRemoved {
        result: Result<(), TemplateError>,
    },
    Observed {
        since: Since,
        result: Result<Shown, HypervisorError>,
    },
    /// Rows of what is over, or not.
    Pruned,
    Resumed,
}

/// A machine that did not become ready.
pub(super) struct Failed {
    pub(super) error: JobError,
    /// The end of its console, read before it was destroyed; empty when there is none.
    pub(super) last_words: String,
}

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum JobError {
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error("the guest's certificate could not be made")]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Image(#[from] crate::image::ImageError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("the database failed")]
    Store(#[from] StoreError),
    #[error("the system has no random numbers to give")]
    Random(#[from] getrandom::Error),
    #[error("its wire does not answer when it is told what the machine may reach")]
    WireSilent,
    #[error("something of the VM is still on the host")]
    NotClean,
    #[error("somebody else changed the VM's row")]
    LostRace,
}

impl Context {
    /// Keeps what is left of a machine that did not become ready: soon it is destroyed.
    async fn failed(&self, vm: VmId, error: JobError) -> Failed {
        let last_words = self.last_words(vm).await;
        Failed { error, last_words }
    }

    /// What is left of a machine that failed, read before it is destroyed; empty when nothing is.
    pub(super) async fn last_words(&self, vm: VmId) -> String {
        let tail = self.hypervisor.console_tail(vm, LAST_WORDS_BYTES);
        let tail = tokio::time::timeout(LAST_WORDS_LIMIT, tail).await;
        tail.unwrap_or_default()
    }

    /// Moves a VM on, or reports that the row is not what the job saw.
    async fn advance(&self, seen: &VmRow, next: VmPhase) -> Result<VmRow, JobError> {
        self.store
            .advance_vm(seen, next, self.clock.now())
            .await?
            .ok_or(JobError::LostRace)
    }

    /// Gives a VM up after a failed step.
    async fn give_up(&self, seen: &VmRow, reason: DestroyReason) {
        // A failure to write it down is made good by the deadline of the phase.
        if let Err(error) = self.advance(seen, VmPhase::Destroying { reason }).await {
            tracing::warn!(vm = %seen.id, error = &error as &dyn std::error::Error, "{} is not marked for destruction yet", seen.id);
        }
    }
}

pub(super) fn timing(step: &str, duration: Duration) -> StepTiming {
    StepTiming {
        step: step.to_owned(),
        duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
    }
}
