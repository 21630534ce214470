//! What the VMs of this node that are not gone take: their memory and their slots.
//!
//! The writer reads it once and keeps it up to date by what it writes itself. When another connection
//! wrote, or a transaction was rolled back, it is read again.

use sqlx::SqliteConnection;

use super::StoreError;
use super::columns::Columns;
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
    pub(super) async fn read(
        connection: &mut SqliteConnection,
        node: InstallId,
    ) -> Result<Self, StoreError> {
        let rows = sqlx::query(
            "SELECT id, slot, memory_mib FROM vms WHERE node_id = $1 AND state <> 'gone'",
        )
        .bind(node.to_string())
        .fetch_all(connection)
        .await?;
        let mut taken = Self::default();
        for row in &rows {
            let columns = Columns::new("vms", row);
            taken.memory_mib += columns.number::<u64>("memory_mib")?;
            taken.slots.insert(columns.number("slot")?);
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
