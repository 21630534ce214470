//! One verb at a time for each VM, so that a VM that is destroyed while its start is still under way
//! is gone when `destroy` says so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::ids::VmId;

/// The VMs that a verb works on or waits for.
#[derive(Debug, Default)]
pub(super) struct VmLocks(Mutex<HashMap<VmId, Arc<tokio::sync::Mutex<()>>>>);

impl VmLocks {
    /// Waits for the VM's turn and keeps it until the guard is dropped.
    pub(super) async fn hold(&self, vm: VmId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Who holds or waits has a share in its lock.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(vm).or_default())
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_vm_waits_for_itself_and_for_no_other() {
        let locks = VmLocks::default();
        let (one, two) = (VmId::from_bits(1), VmId::from_bits(2));
        let held = locks.hold(one).await;
        let other = locks.hold(two).await;
        let mut waiting = Box::pin(locks.hold(one));
        let soon = std::time::Duration::from_millis(20);
        let early = tokio::time::timeout(soon, waiting.as_mut()).await;
        assert!(early.is_err(), "two verbs at once");
        drop(held);
        drop(waiting.await);
        drop(other);
        let _last = locks.hold(two).await;
        assert_eq!(
            locks.0.lock().unwrap().len(),
            1,
            "nothing is kept for the gone"
        );
    }
}
