//! What happened to leases. Each event is written in the transaction of what it tells about.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use remote_docker_api::{EventKind, LeaseEvent, LeaseId};
use rusqlite::ToSql;
use time::OffsetDateTime;

use super::audit::TOLD;
use super::columns::{Columns, Record, micros};
use super::leases::json;
use super::line::Line;
use super::words::Word;
use super::writer::{Change, Operation};
use super::{Store, StoreError};
use crate::audit::Asked;

/// How many events are read at a time: a holder who moves the end of a lease all the time makes
/// very many.
pub const MOST_EVENTS: usize = 256;

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

    /// The events of a lease after the one with this number, oldest first, [`MOST_EVENTS`] at most.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub async fn events(&self, lease: LeaseId, after: u64) -> Result<Vec<LeaseEvent>, StoreError> {
        let rows = sqlx::query(
            "SELECT lease_id AS id, seq, at, kind, detail FROM lease_events \
             WHERE lease_id = $1 AND seq > $2 ORDER BY seq LIMIT $3",
        )
        .bind(lease.to_string())
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .bind(i64::try_from(MOST_EVENTS).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(event).collect()
    }
}

/// One event, of a row that calls its lease `id`.
pub(super) fn event<'r>(row: impl Into<Record<'r>>) -> Result<LeaseEvent, StoreError> {
    let columns = Columns::new("lease_events", row);
    Ok(LeaseEvent {
        seq: columns.number("seq")?,
        at: columns.time("at")?,
        kind: columns.word("kind")?,
        detail: columns.get("detail")?,
    })
}

struct Progress {
    progress: Vec<(LeaseId, EventKind)>,
    now: OffsetDateTime,
}

impl Operation for Progress {
    type Answer = ();

    fn run(&self, change: &mut Change<'_>) -> Result<(), StoreError> {
        let mut waiting = BTreeSet::new();
        for some in self.progress.chunks(MOST_IN_A_STATEMENT) {
            let ids: Vec<LeaseId> = some.iter().map(|(lease, _)| *lease).collect();
            waiting.extend(those_that_wait(change.line, &ids)?);
        }
        for (lease, kind) in &self.progress {
            if waiting.contains(lease) {
                change.tell(*lease, *kind, None, self.now);
            }
        }
        Ok(())
    }
}

/// Those of so many leases at most that wait.
fn those_that_wait(line: &Line, ids: &[LeaseId]) -> Result<Vec<LeaseId>, StoreError> {
    let Some(last) = ids.last() else {
        return Ok(Vec::new());
    };
    let count = ids.len().next_power_of_two();
    let statement = &STATEMENTS.waiting[count.ilog2() as usize];
    // To name one twice changes nothing.
    let ids = ids.iter().chain(std::iter::repeat(last)).take(count);
    let ids: Vec<String> = ids.map(LeaseId::to_string).collect();
    let parameters: Vec<&dyn ToSql> = ids.iter().map(|id| id as &dyn ToSql).collect();
    line.all(statement, &parameters, |row| {
        Columns::new("leases", row).parse("id")
    })
}

/// Something that happened to a lease and is to be written.
#[derive(Debug)]
pub(super) struct NewEvent {
    pub(super) lease: LeaseId,
    pub(super) kind: EventKind,
    pub(super) detail: Option<String>,
    /// Whose call it was, where it was one's.
    pub(super) caller: Option<Asked>,
    pub(super) at: OffsetDateTime,
}

impl NewEvent {
    /// What stands in its row.
    fn values(&self) -> (String, i64, &str, Option<&str>, Option<String>) {
        (
            self.lease.to_string(),
            micros(self.at),
            self.kind.word(),
            self.detail.as_deref(),
            self.caller.as_ref().map(json),
        )
    }
}

/// Adds events to what happened to their leases, in this order.
pub(super) fn write(line: &Line, events: &[NewEvent]) -> Result<(), StoreError> {
    let mut rest = events;
    while !rest.is_empty() {
        // Each gets the number after the last that is there: two of one lease need two statements.
        let mut leases = BTreeSet::new();
        let some = rest.iter().take(MOST_IN_A_STATEMENT);
        let some = some.take_while(|event| leases.insert(event.lease)).count();
        let power = some.ilog2();
        let (now, later) = rest.split_at(1 << power);
        let values: Vec<_> = now.iter().map(NewEvent::values).collect();
        let parameters = values.iter().flat_map(|(lease, at, kind, detail, caller)| {
            [lease as &dyn ToSql, at, kind, detail, caller]
        });
        let parameters: Vec<&dyn ToSql> = parameters.collect();
        line.execute(&STATEMENTS.insert[power as usize], &parameters)?;
        rest = later;
    }
    Ok(())
}

/// How many rows a statement is about at most: a power of two.
const MOST_IN_A_STATEMENT: usize = 1 << 5;

/// Statements about one, two, four and more rows: few texts, so that each stays prepared.
struct Statements {
    insert: Vec<String>,
    waiting: Vec<String>,
}

static STATEMENTS: LazyLock<Statements> = LazyLock::new(|| {
    let about = |count: usize| {
        let rows: Vec<String> = (0..count).map(|row| row_of(5 * row + 1)).collect();
        let ids: Vec<String> = (1..=count).map(|id| format!("${id}")).collect();
        (
            format!(
                "INSERT INTO lease_events (lease_id, seq, at, kind, detail, caller, audited) VALUES {}",
                rows.join(", ")
            ),
            format!(
                "SELECT id FROM leases WHERE state = 'waiting' AND id IN ({})",
                ids.join(", ")
            ),
        )
    };
    let powers = 0..=MOST_IN_A_STATEMENT.ilog2();
    let (insert, waiting) = powers.map(|power| about(1 << power)).unzip();
    Statements { insert, waiting }
});

/// A row whose parameters begin with this number.
fn row_of(first: usize) -> String {
    let [lease, at, kind, detail, caller] = std::array::from_fn(|place| first + place);
    format!(
        "(${lease}, (SELECT COALESCE(MAX(seq), 0) + 1 FROM lease_events WHERE lease_id = ${lease}), \
         ${at}, ${kind}, ${detail}, ${caller}, ${kind} NOT IN ({TOLD}))"
    )
}
