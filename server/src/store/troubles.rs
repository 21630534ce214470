//! What the machines of leases run out of, as their guests say. Guests say what they like, and as often as
//! they like: the row of the lease counts, so that no restart and no other server begins anew.

use remote_docker_api::{EventKind, LeaseEvent, LeaseId};
use rusqlite::params;
use time::OffsetDateTime;

use super::writer::{Change, Operation};
use super::{Store, StoreError, events, rows};
use crate::ids::VmId;
use crate::lease::LeaseRow;

/// How often the holder of one lease is told. Who has not listened until then does not.
pub const MOST_TROUBLES: u32 = 32;

/// Of a process that was killed it is told only while there were fewer than so many: a container that is killed
/// and started again all the time leaves some of them for the disk.
pub(super) const MOST_KILLS: u32 = 24;

/// Said with the last that may be told of its kind.
const NO_MORE: &str = "; that is the last such warning of this lease";

impl Store {
    /// Tells whoever holds this VM what its machine runs out of. `None` when nobody does, or was told
    /// as often as may be: [`MOST_TROUBLES`] times, and fewer where it is about processes that were killed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tell_trouble(
        &self,
        vm: VmId,
        kind: EventKind,
        detail: &str,
        now: OffsetDateTime,
    ) -> Result<Option<LeaseRow>, StoreError> {
        self.write(Trouble {
            vm,
            kind,
            detail: detail.to_owned(),
            now,
        })
        .await
    }

    /// All that was told of this lease so, oldest first.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub async fn troubles(&self, lease: LeaseId) -> Result<Vec<LeaseEvent>, StoreError> {
        let rows = sqlx::query(
            "SELECT lease_id AS id, seq, at, kind, detail FROM lease_events WHERE lease_id = $1 \
             AND kind IN ('disk_low', 'disk_full', 'out_of_memory') ORDER BY seq LIMIT $2",
        )
        .bind(lease.to_string())
        .bind(i64::from(MOST_TROUBLES))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(events::event).collect()
    }
}

/// How often its holder may have been told of anything, this included.
fn most(kind: EventKind) -> u32 {
    match kind {
        EventKind::OutOfMemory => MOST_KILLS,
        _ => MOST_TROUBLES,
    }
}

struct Trouble {
    vm: VmId,
    kind: EventKind,
    detail: String,
    now: OffsetDateTime,
}

impl Operation for Trouble {
    type Answer = Option<LeaseRow>;

    fn run(&self, change: &mut Change<'_>) -> Result<Self::Answer, StoreError> {
        let most = most(self.kind);
        let row = change.line.first(
            "UPDATE leases SET generation = generation + 1, troubles = troubles + 1 \
             WHERE vm_id = $1 AND state = 'active' AND troubles < $2 RETURNING *",
            params![self.vm.to_string(), most],
            |row| rows::lease(row),
        )?;
        let Some(row) = row else { return Ok(None) };
        change.wrote_lease(&row);
        let more = if row.troubles < most { "" } else { NO_MORE };
        let detail = format!("{}{more}", self.detail);
        change.tell(row.id, self.kind, Some(&detail), self.now);
        Ok(Some(row))
    }
}
