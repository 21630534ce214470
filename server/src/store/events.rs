//! What happened to leases. Each event is written in the transaction of what it tells about.

use async_trait::async_trait;
use remote_docker_api::{EventKind, LeaseEvent, LeaseId};
use time::OffsetDateTime;

use super::columns::{Columns, micros};
use super::words::Word;
use super::writer::{Change, Operation};
use super::{Store, StoreError};

impl Store {
    /// Writes down progress that is no transition of the lease itself, such as its machine being
    /// cloned. Leases that are no longer waiting are passed over: their history has gone on.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_progress(
        &self,
        progress: &[(LeaseId, EventKind)],
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let progress = progress.to_vec();
        self.write(Progress { progress, now }).await
    }

    /// The events of a lease after the one with this number, oldest first.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub async fn events(&self, lease: LeaseId, after: u64) -> Result<Vec<LeaseEvent>, StoreError> {
        let rows = sqlx::query(
            "SELECT lease_id AS id, seq, at, kind, detail FROM lease_events \
             WHERE lease_id = $1 AND seq > $2 ORDER BY seq",
        )
        .bind(lease.to_string())
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await?;
        let event = |row| {
            let columns = Columns::new("lease_events", row);
            Ok(LeaseEvent {
                seq: columns.number("seq")?,
                at: columns.time("at")?,
                kind: columns.word("kind")?,
                detail: columns.get("detail")?,
            })
        };
        rows.iter().map(event).collect()
    }
}

struct Progress {
    progress: Vec<(LeaseId, EventKind)>,
    now: OffsetDateTime,
}

#[async_trait]
impl Operation for Progress {
    type Answer = ();

    async fn run(&self, change: &mut Change<'_>) -> Result<(), StoreError> {
        for (lease, kind) in &self.progress {
            let done = sqlx::query(
                "INSERT INTO lease_events (lease_id, seq, at, kind) SELECT id, (SELECT \
                 COALESCE(MAX(seq), 0) + 1 FROM lease_events WHERE lease_id = $1), $2, $3 \
                 FROM leases WHERE id = $1 AND state = 'waiting'",
            )
            .bind(lease.to_string())
            .bind(micros(self.now))
            .bind(kind.word())
            .execute(&mut *change.connection)
            .await?;
            if done.rows_affected() > 0 {
                change.wrote_event(*lease);
            }
        }
        Ok(())
    }
}

/// Adds an event to what happened to a lease.
pub(super) async fn append(
    change: &mut Change<'_>,
    lease: LeaseId,
    kind: EventKind,
    detail: Option<&str>,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO lease_events (lease_id, seq, at, kind, detail) \
         SELECT $1, COALESCE(MAX(seq), 0) + 1, $2, $3, $4 FROM lease_events WHERE lease_id = $1",
    )
    .bind(lease.to_string())
    .bind(micros(now))
    .bind(kind.word())
    .bind(detail)
    .execute(&mut *change.connection)
    .await?;
    change.wrote_event(lease);
    Ok(())
}
