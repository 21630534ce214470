//! What the VMs of this node that are not gone take: their memory and their slots.
//!
//! The writer reads it once and keeps it up to date by what it writes itself. When another connection
//! wrote, or a transaction was rolled back, it is read again.

use rusqlite::params;

use super::StoreError;
use super::columns::Columns;
use super::line::Line;
use crate::ids::InstallId;
use crate::lease::{Budget, VmRow};
use crate::numbers::Numbers;

#[derive(Debug, Default)]
pub(super) struct Taken {
    memory_mib: u64,
    slots: Numbers,
}

impl Taken {
    /// Reads it from the rows.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub(super) fn read(line: &Line, node: InstallId) -> Result<Self, StoreError> {
        let vms = line.all(
            "SELECT id, slot, memory_mib FROM vms WHERE node_id = $1 AND state <> 'gone'",
            params![node.to_string()],
            |row| {
                let columns = Columns::new("vms", row);
                let memory_mib: u64 = columns.number("memory_mib")?;
                Ok((memory_mib, columns.number("slot")?))
            },
        )?;
        let mut taken = Self::default();
        for (memory_mib, slot) in vms {
            taken.memory_mib += memory_mib;
            taken.slots.insert(slot);
        }
        Ok(taken)
    }

    /// Takes memory in MiB and the lowest free slot, which it answers, or nothing if that exceeds the
    /// budget.
    pub(super) fn take(&mut self, memory_mib: u32, budget: &Budget) -> Option<u16> {
        let memory = self.memory_mib.saturating_add(memory_mib.into());
        if memory > budget.memory_mib {
            return None;
        }
        let slot = self.slots.lowest_free(1..=budget.slots)?;
        self.slots.insert(slot);
        self.memory_mib = memory;
        Some(slot)
    }

    /// This VM has gone.
    pub(super) fn give_back(&mut self, vm: &VmRow) {
        self.slots.remove(vm.slot.0);
        self.memory_mib = self.memory_mib.saturating_sub(vm.memory_mib.into());
    }
}
