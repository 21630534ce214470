//! The disk of the simulated host: what guests have written, and who waits for room.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::VmId;

#[derive(Debug, Default)]
pub(super) struct SimDisk {
    /// Room that is left in bytes; without it there is always enough.
    free: Option<u64>,
    taken: BTreeMap<VmId, u64>,
    /// What those who wait have still to write.
    waiting: BTreeMap<VmId, u64>,
    stalled: BTreeSet<VmId>,
}

impl SimDisk {
    pub(super) fn set_free(&mut self, bytes: u64) {
        self.free = Some(bytes);
    }

    pub(super) fn free(&self) -> Option<u64> {
        self.free
    }

    pub(super) fn taken(&self) -> &BTreeMap<VmId, u64> {
        &self.taken
    }

    pub(super) fn stalled(&self) -> &BTreeSet<VmId> {
        &self.stalled
    }

    pub(super) fn take(&mut self, vm: VmId, bytes: u64) {
        let fits = bytes.min(self.free.unwrap_or(u64::MAX));
        if let Some(free) = &mut self.free {
            *free -= fits;
        }
        *self.taken.entry(vm).or_default() += fits;
        if fits < bytes {
            self.waiting.insert(vm, bytes - fits);
            self.stall(vm);
        }
    }

    pub(super) fn stall(&mut self, vm: VmId) {
        self.stalled.insert(vm);
    }

    /// Lets a VM write what it waited to write.
    pub(super) fn resume(&mut self, vm: VmId) {
        self.stalled.remove(&vm);
        if let Some(rest) = self.waiting.remove(&vm) {
            self.take(vm, rest);
        }
    }

    /// Gives back what a VM took.
    pub(super) fn forget(&mut self, vm: VmId) {
        self.stalled.remove(&vm);
        self.waiting.remove(&vm);
        let taken = self.taken.remove(&vm).unwrap_or_default();
        if let Some(free) = &mut self.free {
            *free += taken;
        }
    }
}
