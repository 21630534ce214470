//! Lets a VM go on that stood still because the disk had no space for what it wrote.

use super::{Context, Outcome};
use crate::ids::VmId;

/// Lets `vm` go on. When that fails, the next look at the host tells that it still stands.
pub(in super::super) async fn resume(context: Context, vm: VmId) -> Outcome {
    match context.hypervisor.resume(vm).await {
        Ok(()) => tracing::info!(%vm, "{vm} goes on: the disk has space again"),
        Err(error) => {
            tracing::warn!(%vm, error = &error as &dyn std::error::Error, "{vm} stands still and cannot go on");
        }
    }
    Outcome::Resumed
}
