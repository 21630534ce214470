//! Destroying → Gone: takes a VM off the host and looks whether it is off.

use std::time::Duration;

use super::{Context, JobError, Outcome};
use crate::failpoint;
use crate::ids::VmId;
use crate::lease::{VmPhase, VmRow};

/// How long a VM that could not be destroyed is left alone. The job sleeps that long before it
/// reports, because nothing else is done with the VM while its job runs.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Destroys what is on the host of `id`; `row` is its row, which an orphan has not.
pub(in super::super) async fn tear_down(context: Context, id: VmId, row: Option<VmRow>) -> Outcome {
    let result = run(&context, id, row).await;
    if let Err(error) = &result {
        tracing::warn!(vm = %id, error = error as &dyn std::error::Error, "{id} could not be destroyed; it will be tried again");
        tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
    }
    Outcome::TornDown { vm: id, result }
}

async fn run(context: &Context, id: VmId, row: Option<VmRow>) -> Result<(), JobError> {
    context.hypervisor.destroy(id).await?;
    failpoint::hit("vm-destroyed");
    let left = context.hypervisor.list().await?;
    if left.running.contains(&id) || left.remnants.contains(&id) {
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
