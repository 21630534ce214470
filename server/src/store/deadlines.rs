//! What moves the deadlines of an active lease: heartbeats, extensions, warnings.

use remote_docker_api::{EventKind, LeaseId};
use rusqlite::params;
use time::OffsetDateTime;

use super::columns::micros;
use super::line::Line;
use super::rows;
use super::writer::{Change, Operation};
use super::{Store, StoreError, locked};
use crate::audit::Asked;
use crate::lease::{LeasePhase, LeaseRow};

/// What became of a call that moves a deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    /// This is the lease now. Also when nothing had to be moved.
    Done(LeaseRow),
    /// The lease is not active: it waits, ends or has ended.
    NotActive(LeaseRow),
    /// The lease expects no heartbeats.
    NoKeepalive,
    /// There is no such lease.
    Unknown,
}

impl Store {
    /// Writes down that the holder of a lease is there.
    ///
    /// # Errors
    /// When the database fails; that it came is remembered then, see [`Self::unwritten_heartbeat_at`].
    pub async fn heartbeat(&self, id: LeaseId, now: OffsetDateTime) -> Result<Moved, StoreError> {
        let moved = self.write(Heartbeat { id, now }).await;
        if moved.is_err() {
            let mut unwritten = locked(&self.unwritten_heartbeat_at);
            *unwritten = (*unwritten).max(Some(now));
        }
        moved
    }

    /// When a heartbeat, of whatever lease, came last that could not be written down: who was silent
    /// until then may not have been.
    #[must_use]
    pub fn unwritten_heartbeat_at(&self) -> Option<OffsetDateTime> {
        *locked(&self.unwritten_heartbeat_at)
    }

    /// Lets a lease last at least until this moment, as `caller` asked.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn extend(
        &self,
        id: LeaseId,
        until: OffsetDateTime,
        now: OffsetDateTime,
        caller: &Asked,
    ) -> Result<Moved, StoreError> {
        let caller = caller.clone();
        self.write(Extend {
            id,
            until,
            now,
            caller,
        })
        .await
    }

    /// Lets a lease last until this moment, no longer and no less, whether or not anybody uses it or
    /// sends heartbeats, as `caller` asked.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keep(
        &self,
        id: LeaseId,
        until: OffsetDateTime,
        now: OffsetDateTime,
        caller: &Asked,
    ) -> Result<Moved, StoreError> {
        let caller = caller.clone();
        self.write(Keep {
            id,
            until,
            now,
            caller,
        })
        .await
    }

    /// Writes down that the holder of an active lease is warned of the end at `of`. `None` when the
    /// lease is no longer as it was seen.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn warn(
        &self,
        seen: &LeaseRow,
        of: OffsetDateTime,
        detail: &str,
        now: OffsetDateTime,
    ) -> Result<Option<LeaseRow>, StoreError> {
        self.write(Warn {
            id: seen.id,
            generation: seen.generation,
            of,
            detail: detail.to_owned(),
            now,
        })
        .await
    }
}

struct Heartbeat {
    id: LeaseId,
    now: OffsetDateTime,
}

impl Operation for Heartbeat {
    type Answer = Moved;

    fn run(&self, change: &mut Change<'_>) -> Result<Moved, StoreError> {
        let Some(row) = by_id(change.line, self.id)? else {
            return Ok(Moved::Unknown);
        };
        if !is_active(&row) {
            return Ok(Moved::NotActive(row));
        }
        if row.keepalive_s.is_none() {
            return Ok(Moved::NoKeepalive);
        }
        // An end for want of this heartbeat that is just being written loses the race. A clock that was
        // set back does not take an earlier heartbeat away.
        let row = change.line.one(
            "UPDATE leases SET generation = generation + 1, \
             heartbeat_at = CASE WHEN heartbeat_at > $1 THEN heartbeat_at ELSE $1 END \
             WHERE id = $2 RETURNING *",
            params![micros(self.now), self.id.to_string()],
            |row| rows::lease(row),
        )?;
        change.wrote_lease(&row);
        Ok(Moved::Done(row))
    }
}

struct Extend {
    id: LeaseId,
    until: OffsetDateTime,
    now: OffsetDateTime,
    caller: Asked,
}

impl Operation for Extend {
    type Answer = Moved;

    fn run(&self, change: &mut Change<'_>) -> Result<Moved, StoreError> {
        let Some(row) = by_id(change.line, self.id)? else {
            return Ok(Moved::Unknown);
        };
        match &row.phase {
            LeasePhase::Active(grant) if is_active(&row) => {
                if micros(grant.expires_at) >= micros(self.until) {
                    return Ok(Moved::Done(row));
                }
            }
            _ => return Ok(Moved::NotActive(row)),
        }
        let row = change.line.one(
            "UPDATE leases SET generation = generation + 1, expires_at = $1 WHERE id = $2 \
             RETURNING *",
            params![micros(self.until), self.id.to_string()],
            |row| rows::lease(row),
        )?;
        change.wrote_lease(&row);
        change.tell_of(&self.caller, self.id, EventKind::Extended, self.now);
        Ok(Moved::Done(row))
    }
}

struct Keep {
    id: LeaseId,
    until: OffsetDateTime,
    now: OffsetDateTime,
    caller: Asked,
}

impl Operation for Keep {
    type Answer = Moved;

    fn run(&self, change: &mut Change<'_>) -> Result<Moved, StoreError> {
        let Some(row) = by_id(change.line, self.id)? else {
            return Ok(Moved::Unknown);
        };
        if !is_active(&row) {
            return Ok(Moved::NotActive(row));
        }
        let row = change.line.one(
            "UPDATE leases SET generation = generation + 1, expires_at = $1, keepalive_s = NULL, \
             idle_s = NULL WHERE id = $2 RETURNING *",
            params![micros(self.until), self.id.to_string()],
            |row| rows::lease(row),
        )?;
        change.wrote_lease(&row);
        change.tell_of(&self.caller, self.id, EventKind::Kept, self.now);
        Ok(Moved::Done(row))
    }
}

struct Warn {
    id: LeaseId,
    generation: i64,
    of: OffsetDateTime,
    detail: String,
    now: OffsetDateTime,
}

impl Operation for Warn {
    type Answer = Option<LeaseRow>;

    fn run(&self, change: &mut Change<'_>) -> Result<Self::Answer, StoreError> {
        let row = change.line.first(
            "UPDATE leases SET generation = generation + 1, warned_of = $1 \
             WHERE id = $2 AND generation = $3 AND state = 'active' RETURNING *",
            params![micros(self.of), self.id.to_string(), self.generation],
            |row| rows::lease(row),
        )?;
        let Some(row) = row else { return Ok(None) };
        change.wrote_lease(&row);
        let detail = Some(self.detail.as_str());
        change.tell(self.id, EventKind::Warning, detail, self.now);
        Ok(Some(row))
    }
}

fn is_active(row: &LeaseRow) -> bool {
    matches!(row.phase, LeasePhase::Active(_)) && row.end_wish.is_none()
}

fn by_id(line: &Line, id: LeaseId) -> Result<Option<LeaseRow>, StoreError> {
    line.first(
        "SELECT * FROM leases WHERE id = $1",
        params![id.to_string()],
        |row| rows::lease(row),
    )
}
