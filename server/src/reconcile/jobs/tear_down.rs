//! Destroying → Gone: takes a VM off the host and looks whether it is off.

use super::{Context, JobError, Outcome};
use crate::failpoint;
use crate::ids::VmId;
use crate::lease::{VmPhase, VmRow};

/// Destroys what is on the host of `id`; `row` is its row, which an orphan has not.
pub(in super::super) async fn tear_down(context: Context, id: VmId, row: Option<VmRow>) -> Outcome {
    let result = run(&context, id, row).await;
    Outcome::TornDown { vm: id, result }
}

async fn run(context: &Context, id: VmId, row: Option<VmRow>) -> Result<(), JobError> {
    context.hypervisor.destroy(id).await?;
    failpoint::hit("vm-destroyed");
    if context.hypervisor.shows(id).await? {
        return Err(JobError::NotClean);
    }
    if let Some(row) = row
        && let VmPhase::Destroying { reason } = row.phase
    {
        context.advance(&row, VmPhase::Gone { reason }).await?;
        failpoint::hit("vm-gone");
    }
    Ok(())
}
