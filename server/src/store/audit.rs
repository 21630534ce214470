//! Which events of leases the audit log does not have yet. They are marked when they are written, in the
//! transaction of what they tell about, and unmarked when they are in its file.

use remote_docker_api::{EndReason, LeaseId};
use rusqlite::params;

use super::columns::Columns;
use super::events::MOST_EVENTS;
use super::words::Word;
use super::writer::{Change, Operation};
use super::{Store, StoreError};
use crate::audit::{Asked, LeaseFact};

/// The words of those kinds of events that the audit log tells, for a list in SQL.
pub(super) const TOLD: &str = "'queued', 'ready', 'extended', 'kept', 'ending'";

impl Store {
    /// The oldest events that the audit log does not have, with what it tells of their leases.
    ///
    /// # Errors
    /// When the database fails or an event is damaged.
    pub async fn unaudited(&self) -> Result<Vec<LeaseFact>, StoreError> {
        let rows = sqlx::query(
            "SELECT leases.id, lease_events.seq, lease_events.at, lease_events.kind, \
             leases.project, leases.engine, leases.size, leases.egress, leases.ttl_s, leases.keepalive_s, \
             leases.idle_s, leases.labels, leases.asked, leases.vm_id, leases.end_reason, \
             leases.ready_at, leases.expires_at, CASE lease_events.kind WHEN 'ending' \
             THEN leases.end_wish_by ELSE lease_events.caller END AS caller \
             FROM lease_events JOIN leases ON leases.id = lease_events.lease_id \
             WHERE lease_events.audited = FALSE AND leases.node_id = $1 \
             ORDER BY lease_events.at, lease_events.lease_id, lease_events.seq LIMIT $2",
        )
        .bind(self.install.to_string())
        .bind(i64::try_from(MOST_EVENTS).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(fact).collect()
    }

    /// The audit log has these events now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn audited(&self, events: &[(LeaseId, u64)]) -> Result<(), StoreError> {
        let events = events.to_vec();
        self.write(Audited { events }).await
    }
}

fn fact(row: &sqlx::sqlite::SqliteRow) -> Result<LeaseFact, StoreError> {
    let columns = Columns::new("lease_events", row);
    // One row that is damaged must not keep all others out of the audit log, so what may be missing is.
    let who = |name| -> Option<Asked> {
        let text = columns.get::<Option<&str>>(name).ok().flatten();
        text.and_then(from_json)
    };
    let labels = columns.get::<Option<&str>>("labels").ok().flatten();
    let moment = |name| columns.maybe_time(name).ok().flatten();
    let number = |name| columns.get::<Option<i64>>(name).ok().flatten();
    let text = |name| columns.get::<Option<String>>(name).ok().flatten();
    Ok(LeaseFact {
        lease: columns.parse("id")?,
        seq: columns.number("seq")?,
        kind: columns.word("kind")?,
        at: columns.time("at")?,
        project: text("project").unwrap_or_default(),
        asked: who("asked").unwrap_or_default(),
        caller: who("caller"),
        engine: text("engine").unwrap_or_default(),
        size: text("size").unwrap_or_default(),
        egress: text("egress").unwrap_or_default(),
        ttl_s: number("ttl_s").unwrap_or_default(),
        keepalive_s: number("keepalive_s"),
        idle_s: number("idle_s"),
        labels: labels.and_then(from_json).unwrap_or_default(),
        vm: text("vm_id"),
        reason: text("end_reason").and_then(|word| EndReason::from_word(&word)),
        ready_at: moment("ready_at"),
        expires_at: moment("expires_at"),
    })
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

struct Audited {
    events: Vec<(LeaseId, u64)>,
}

impl Operation for Audited {
    type Answer = ();

    fn run(&self, change: &mut Change<'_>) -> Result<(), StoreError> {
        // Nobody is told: it concerns no one but the audit log.
        for (lease, seq) in &self.events {
            change.line.execute(
                "UPDATE lease_events SET audited = TRUE WHERE lease_id = $1 AND seq = $2",
                params![lease.to_string(), i64::try_from(*seq).unwrap_or(i64::MAX)],
            )?;
        }
        Ok(())
    }
}
