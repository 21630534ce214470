//! Tells a machine's wire what the machine may reach: before a lease gets it, whose certificate is signed
//! meanwhile, and once more after a restart of the server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use remote_docker_api::Egress;

use super::{Admitted, Context, JobError, Outcome};
use crate::ids::VmId;
use crate::lease::{DestroyReason, LeaseRow, VmRow};
use crate::pki::VmCa;
use crate::reconcile::assign::sign;

/// How long that may take; it is a matter of microseconds. What comes later is followed by whatever the
/// wire is told next, as the network takes one word after the other.
pub(in super::super) const ADMIT_LIMIT: Duration = Duration::from_secs(20);

/// Lets `vm`, which nobody holds yet, reach what `lease` says that is to get it, and signs that one's
/// certificate with the authority of the machine. It is given up when its wire cannot be told.
pub(in super::super) async fn admit(
    context: Context,
    vm: VmRow,
    lease: LeaseRow,
    ca: Arc<VmCa>,
) -> Outcome {
    let (began, egress) = (Instant::now(), lease.egress);
    let result = match tell(&context, vm.id, egress).await {
        Ok(()) => {
            let signed = sign(&context, &ca, &lease);
            Ok(Admitted {
                egress,
                signed: signed.map(|cert_pem| (lease.id, cert_pem)),
                took: began.elapsed(),
            })
        }
        Err(error) => {
            let failed = context.failed(vm.id, error).await;
            context.give_up(&vm, DestroyReason::ActivationFailed).await;
            Err(failed)
        }
    };
    Outcome::Admitted {
        vm: vm.id,
        key: vm.key,
        result,
    }
}

/// Lets `vm`, whose lease is active, reach what `egress` says.
pub(in super::super) async fn readmit(context: Context, vm: VmId, egress: Egress) -> Outcome {
    if let Err(error) = tell(&context, vm, egress).await {
        tracing::warn!(%vm, error = &error as &dyn std::error::Error, "{vm} is not told again what it may reach; what it was told before holds");
    }
    Outcome::Readmitted
}

async fn tell(context: &Context, vm: VmId, egress: Egress) -> Result<(), JobError> {
    let told = context.hypervisor.admit(vm, egress);
    match tokio::time::timeout(ADMIT_LIMIT, told).await {
        Ok(told) => told.map_err(JobError::from),
        Err(_) => Err(JobError::WireSilent),
    }
}
