//! Memory and places: what is taken, and whether one more fits.

use super::snapshot::{Policy, Snapshot};

/// What all VMs of this host that are not gone may take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Number of VMs. Their slots are 1 to this number.
    pub slots: u16,
}

impl Budget {
    /// The budget that remains for rows while `building_mib` of memory is taken by machines without
    /// one.
    #[must_use]
    pub fn without(self, building_mib: u64) -> Self {
        Self {
            memory_mib: self.memory_mib.saturating_sub(building_mib),
            ..self
        }
    }

    /// All of it.
    pub(super) fn whole(self) -> Need {
        Need {
            mib: self.memory_mib,
            slots: u64::from(self.slots),
        }
    }
}

/// The part of the budget that is free while a plan is made.
pub(super) struct Room {
    free: Need,
}

impl Room {
    pub(super) fn new(snapshot: &Snapshot, policy: &Policy) -> Self {
        let taken = Need::of_all(snapshot);
        let whole = policy.budget.without(snapshot.building_mib(policy)).whole();
        Self {
            free: whole.after(taken),
        }
    }

    /// Takes what is needed, or nothing and answers what is lacking.
    pub(super) fn take(&mut self, need: Need) -> Result<(), Need> {
        let lacking = need.after(self.free);
        if !lacking.is_nothing() {
            return Err(lacking);
        }
        self.free = self.free.after(need);
        Ok(())
    }
}

/// An amount of memory and places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Need {
    mib: u64,
    slots: u64,
}

impl Need {
    /// A VM needs memory and a slot.
    pub(super) fn vm(memory_mib: u32) -> Self {
        Self {
            mib: u64::from(memory_mib),
            slots: 1,
        }
    }

    /// What all VMs take that are not gone.
    pub(super) fn of_all(snapshot: &Snapshot) -> Self {
        let vms = snapshot.vms.iter().map(|vm| Self::vm(vm.memory_mib));
        vms.fold(snapshot.quiet.need(), Self::and)
    }

    /// Of memory, in MiB.
    pub(super) fn mib(self) -> u64 {
        self.mib
    }

    /// A place alone.
    pub(super) fn slot() -> Self {
        Self { mib: 0, slots: 1 }
    }

    pub(super) fn is_nothing(self) -> bool {
        self == Self::default()
    }

    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            mib: self.mib.saturating_add(other.mib),
            slots: self.slots.saturating_add(other.slots),
        }
    }

    /// What remains when `other` is taken off, never less than nothing.
    pub(super) fn after(self, other: Self) -> Self {
        Self {
            mib: self.mib.saturating_sub(other.mib),
            slots: self.slots.saturating_sub(other.slots),
        }
    }
}
