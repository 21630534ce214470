//! Tells a machine's wire what the machine may reach: before a lease gets it, and once more after a
//! restart of the server.

use std::time::{Duration, Instant};

use remote_docker_api::Egress;

use super::{Context, JobError, Outcome};
use crate::lease::{DestroyReason, VmPhase, VmRow};

/// How long that may take; it is a matter of microseconds. What comes later is followed by whatever the
/// wire is told next, as the network takes one word after the other.
pub(in super::super) const ADMIT_LIMIT: Duration = Duration::from_secs(20);

/// Lets `vm` reach what `egress` says. A machine that nobody holds yet is given up when it cannot be told.
pub(in super::super) async fn admit(context: Context, vm: VmRow, egress: Egress) -> Outcome {
    let began = Instant::now();
    let told = context.hypervisor.admit(vm.id, egress);
    let result = match tokio::time::timeout(ADMIT_LIMIT, told).await {
        Ok(told) => told.map_err(JobError::from),
        Err(_) => Err(JobError::WireSilent),
    };
    let result = match result {
        Ok(()) => Ok(began.elapsed()),
        Err(error) if vm.phase == VmPhase::Ready => {
            let failed = context.failed(vm.id, error).await;
            context.give_up(&vm, DestroyReason::ActivationFailed).await;
            Err(failed)
        }
        Err(error) => {
            tracing::warn!(vm = %vm.id, error = &error as &dyn std::error::Error, "{} is not told again what it may reach; what it was told before holds", vm.id);
            return Outcome::Readmitted;
        }
    };
    if vm.phase != VmPhase::Ready {
        return Outcome::Readmitted;
    }
    Outcome::Admitted {
        vm: vm.id,
        key: vm.key,
        egress,
        result,
    }
}
