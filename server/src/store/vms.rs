//! VMs in the store.

use rusqlite::params;
use sqlx::SqliteConnection;
use time::OffsetDateTime;

use super::columns::{kept, micros};
use super::line::Line;
use super::rows::{self, state, vm_columns};
use super::words::Word;
use super::writer::{Change, Operation};
use super::{Store, StoreError};
use crate::ids::{InstallId, Slot, VmId};
use crate::lease::{Budget, DestroyReason, PoolKey, VmPhase, VmRow, check_vm};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, generation, engine, size, memory_mib, slot, state, phase_since, lease_id, \
             reason FROM vms ",
            $rest
        )
    };
}

/// A statement that answers the rows that it changes.
macro_rules! returning {
    ($statement:literal) => {
        concat!(
            $statement,
            " RETURNING id, generation, engine, size, memory_mib, slot, state, phase_since, lease_id, \
             reason"
        )
    };
}
pub(super) use returning;

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
        self.write(CreateVm {
            id,
            key: key.clone(),
            memory_mib,
            now,
            budget: *budget,
        })
        .await
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
        check_vm(&seen.phase, &next)?;
        self.write(Advance {
            seen: seen.clone(),
            next,
            now,
        })
        .await
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

struct CreateVm {
    id: VmId,
    key: PoolKey,
    memory_mib: u32,
    now: OffsetDateTime,
    budget: Budget,
}

impl Operation for CreateVm {
    type Answer = Option<VmRow>;

    fn run(&self, change: &mut Change<'_>) -> Result<Self::Answer, StoreError> {
        let taken = change.taken()?;
        let Some(slot) = taken.take(self.memory_mib, &self.budget) else {
            return Ok(None);
        };
        change.line.execute(
            "INSERT INTO vms (id, node_id, generation, engine, size, memory_mib, slot, state, \
             phase_since) VALUES ($1, $2, 1, $3, $4, $5, $6, $7, $8)",
            params![
                self.id.to_string(),
                change.node.to_string(),
                self.key.engine,
                self.key.size,
                self.memory_mib,
                slot,
                state::PLANNED,
                micros(self.now),
            ],
        )?;
        let row = VmRow {
            id: self.id,
            generation: 1,
            key: self.key.clone(),
            memory_mib: self.memory_mib,
            slot: Slot(slot),
            phase: VmPhase::Planned,
            phase_since: kept(self.now),
        };
        change.wrote_vm(&row);
        Ok(Some(row))
    }
}

struct Advance {
    seen: VmRow,
    next: VmPhase,
    now: OffsetDateTime,
}

impl Operation for Advance {
    type Answer = Option<VmRow>;

    fn run(&self, change: &mut Change<'_>) -> Result<Self::Answer, StoreError> {
        let (state, _, reason) = vm_columns(&self.next);
        let (seen_state, _, _) = vm_columns(&self.seen.phase);
        // A VM that an active lease holds ends only together with that lease. Its lease stays in its
        // row when it is destroyed, so that the unique index goes on refusing that lease another VM.
        let done = change.line.execute(
            "UPDATE vms SET generation = generation + 1, state = $1, reason = $2, phase_since = $3 \
             WHERE id = $4 AND generation = $5 AND state = $6 AND NOT EXISTS \
             (SELECT 1 FROM leases WHERE vm_id = $4 AND state = 'active')",
            params![
                state,
                reason.map(|reason| reason.word()),
                micros(self.now),
                self.seen.id.to_string(),
                self.seen.generation,
                seen_state,
            ],
        )?;
        if done == 0 {
            return Ok(None);
        }
        // It was as it was seen, or nothing would have been written.
        let row = VmRow {
            generation: self.seen.generation + 1,
            phase: self.next,
            phase_since: kept(self.now),
            ..self.seen.clone()
        };
        change.wrote_vm(&row);
        Ok(Some(row))
    }
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

/// Deletes VMs that were gone before this moment and that no lease refers to.
pub(super) fn prune(
    line: &Line,
    node: InstallId,
    before: OffsetDateTime,
    most: usize,
) -> Result<usize, StoreError> {
    line.execute(
        "DELETE FROM vms WHERE id IN (SELECT id FROM vms \
         WHERE node_id = $1 AND state = 'gone' AND phase_since < $2 \
         AND NOT EXISTS (SELECT 1 FROM leases WHERE leases.vm_id = vms.id) \
         ORDER BY phase_since LIMIT $3)",
        params![node.to_string(), micros(before), most],
    )
}
