//! VMs in the store.

use sqlx::SqliteConnection;
use time::OffsetDateTime;

use super::columns::{Columns, micros};
use super::rows::{self, state, vm_columns};
use super::words::Word;
use super::{Store, StoreError};
use crate::ids::{InstallId, VmId};
use crate::lease::{Budget, DestroyReason, PoolKey, VmPhase, VmRow, check_vm};

impl Store {
    /// Writes the row of a new VM in the lowest free slot, if it fits into the budget together with
    /// all VMs that are not gone; `None` when it does not.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_vm(
        &self,
        id: VmId,
        key: &PoolKey,
        memory_mib: u32,
        now: OffsetDateTime,
        budget: &Budget,
    ) -> Result<Option<VmRow>, StoreError> {
        let mut tx = self.write().await?;
        let taken = sqlx::query(
            "SELECT id, slot, memory_mib FROM vms WHERE node_id = $1 AND state <> 'gone' \
             ORDER BY slot",
        )
        .bind(self.install.to_string())
        .fetch_all(&mut *tx)
        .await?;
        let mut memory = u64::from(memory_mib);
        let mut slot: u16 = 1;
        for row in &taken {
            let columns = Columns::new("vms", row);
            memory = memory.saturating_add(columns.number("memory_mib")?);
            // Ordered by slot: the first that is not the next number leaves a gap before it.
            if columns.number::<u16>("slot")? == slot {
                slot = slot.saturating_add(1);
            }
        }
        if memory > budget.memory_mib || slot > budget.slots {
            return Ok(None);
        }
        sqlx::query(
            "INSERT INTO vms (id, node_id, generation, engine, size, memory_mib, slot, state, \
             phase_since) VALUES ($1, $2, 1, $3, $4, $5, $6, $7, $8)",
        )
        .bind(id.to_string())
        .bind(self.install.to_string())
        .bind(&key.engine)
        .bind(&key.size)
        .bind(memory_mib)
        .bind(slot)
        .bind(state::PLANNED)
        .bind(micros(now))
        .execute(&mut *tx)
        .await?;
        let row = by_id(&mut tx, id).await?;
        self.commit(tx).await?;
        Ok(row)
    }

    /// The VM with this id, gone or not.
    ///
    /// # Errors
    /// When the database fails or the row is damaged.
    pub async fn vm(&self, id: VmId) -> Result<Option<VmRow>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        by_id(&mut connection, id).await
    }

    /// Moves a VM on, if it is still as `seen`; `None` when it is not, or when an active lease holds
    /// it. Not for [`VmPhase::Assigned`], which a VM and its lease enter together: [`Self::assign`].
    ///
    /// # Errors
    /// When the transition is not legal or the database fails.
    pub async fn advance_vm(
        &self,
        seen: &VmRow,
        next: VmPhase,
        now: OffsetDateTime,
    ) -> Result<Option<VmRow>, StoreError> {
        if matches!(next, VmPhase::Assigned { .. }) {
            return Err(StoreError::AssignedAlone);
        }
        let mut tx = self.write().await?;
        if is_held(&mut tx, seen.id).await? || !set_phase(&mut tx, seen, next, now).await? {
            return Ok(None);
        }
        let row = by_id(&mut tx, seen.id).await?;
        self.commit(tx).await?;
        Ok(row)
    }

    /// Closes the row of a VM of which the host was seen clean, if it is still as `seen`, and frees
    /// its slot and memory; `None` when it is not.
    ///
    /// # Errors
    /// When the VM is not being destroyed or the database fails.
    pub async fn vm_gone(
        &self,
        seen: &VmRow,
        now: OffsetDateTime,
    ) -> Result<Option<VmRow>, StoreError> {
        let reason = match seen.phase {
            VmPhase::Destroying { reason } => reason,
            // Whatever it says: the diagram refuses it.
            _ => DestroyReason::Lost,
        };
        self.advance_vm(seen, VmPhase::Gone { reason }, now).await
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, generation, engine, size, memory_mib, slot, state, phase_since, lease_id, \
             reason FROM vms ",
            $rest
        )
    };
}

pub(super) async fn by_id(
    connection: &mut SqliteConnection,
    id: VmId,
) -> Result<Option<VmRow>, StoreError> {
    let row = sqlx::query(select!("WHERE id = $1"))
        .bind(id.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(rows::vm).transpose()
}

/// All of this node that are not gone, by id.
pub(super) async fn live(
    connection: &mut SqliteConnection,
    node: InstallId,
) -> Result<Vec<VmRow>, StoreError> {
    let rows = sqlx::query(select!(
        "WHERE node_id = $1 AND state <> 'gone' ORDER BY id"
    ))
    .bind(node.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter().map(rows::vm).collect()
}

/// Writes the next phase over the one that was seen; `false` when the row is no longer so.
///
/// The lease of a VM stays in its row when it is destroyed, so that the unique index goes on
/// refusing that lease another VM.
pub(super) async fn set_phase(
    connection: &mut SqliteConnection,
    seen: &VmRow,
    next: VmPhase,
    now: OffsetDateTime,
) -> Result<bool, StoreError> {
    check_vm(&seen.phase, &next)?;
    let (state, lease, reason) = vm_columns(&next);
    let (seen_state, _, _) = vm_columns(&seen.phase);
    let done = sqlx::query(
        "UPDATE vms SET generation = generation + 1, state = $1, \
         lease_id = COALESCE($2, lease_id), reason = $3, phase_since = $4 \
         WHERE id = $5 AND generation = $6 AND state = $7",
    )
    .bind(state)
    .bind(lease.map(|lease| lease.to_string()))
    .bind(reason.map(|reason| reason.word()))
    .bind(micros(now))
    .bind(seen.id.to_string())
    .bind(seen.generation)
    .bind(seen_state)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Whether an active lease holds the VM; then it ends only together with that lease.
async fn is_held(connection: &mut SqliteConnection, vm: VmId) -> Result<bool, StoreError> {
    let held = sqlx::query("SELECT id FROM leases WHERE vm_id = $1 AND state = 'active'")
        .bind(vm.to_string())
        .fetch_optional(connection)
        .await?;
    Ok(held.is_some())
}

/// Deletes VMs that were gone before this moment and that no lease refers to.
pub(super) async fn prune(
    connection: &mut SqliteConnection,
    node: InstallId,
    before: OffsetDateTime,
) -> Result<u64, StoreError> {
    let done = sqlx::query(
        "DELETE FROM vms WHERE node_id = $1 AND state = 'gone' AND phase_since < $2 \
         AND NOT EXISTS (SELECT 1 FROM leases WHERE leases.vm_id = vms.id)",
    )
    .bind(node.to_string())
    .bind(micros(before))
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
