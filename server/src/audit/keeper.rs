//! The one who writes the audit log while the server runs: what the database has not told it yet, and
//! what it is handed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::file::AuditFile;
use super::record::{Event, Record};
use crate::clock::Clock;
use crate::log_budget::LogBudget;
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};

/// How many records may wait to be written that are nowhere else.
const MOST_WAITING: usize = 1024;
/// Looks at the database are at least so far apart, however much happens.
const PACE: Duration = Duration::from_millis(200);
/// How long a file that cannot be written is left alone.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Takes records. Handlers have it; it never makes them wait.
#[derive(Debug)]
pub struct Audit {
    /// Without it, there is no audit log.
    desk: Option<mpsc::Sender<Record>>,
    /// What callers can cause as often as they like.
    knocks: Mutex<LogBudget>,
    refusals: Mutex<LogBudget>,
    /// Why nothing can be written, as the keeper found last.
    trouble: Mutex<Option<String>>,
    metrics: Arc<Metrics>,
}

/// Writes what is handed to an [`Audit`], and what happens to leases.
#[derive(Debug)]
pub struct Keeper {
    audit: Arc<Audit>,
    desk: mpsc::Receiver<Record>,
    file: AuditFile,
    /// Lines that are nowhere else.
    unwritten: Vec<String>,
}

impl Audit {
    /// No audit log: whatever is noted is forgotten.
    #[must_use]
    pub fn none(metrics: Arc<Metrics>) -> Self {
        let budget = || Mutex::new(LogBudget::new(Instant::now()));
        Self {
            desk: None,
            knocks: budget(),
            refusals: budget(),
            trouble: Mutex::default(),
            metrics,
        }
    }

    /// One in this file, which the keeper has to be [run](Keeper::run) for.
    #[must_use]
    pub fn in_file(file: AuditFile, metrics: Arc<Metrics>) -> (Arc<Self>, Keeper) {
        let (sender, desk) = mpsc::channel(MOST_WAITING);
        let audit = Arc::new(Self {
            desk: Some(sender),
            ..Self::none(metrics)
        });
        let keeper = Keeper {
            audit: audit.clone(),
            desk,
            file,
            unwritten: Vec::new(),
        };
        (audit, keeper)
    }

    /// Notes what a request came to that left no lease. A burst of them is written, then twenty a minute,
    /// and how many were left out in between.
    pub fn note(&self, record: Record) {
        let Some(desk) = &self.desk else {
            return;
        };
        let budget = match record.event() {
            Event::AccessRefused => &self.knocks,
            _ => &self.refusals,
        };
        let Some(left_out) = locked(budget).take(Instant::now()) else {
            return;
        };
        if desk.try_send(record.after(left_out)).is_err() {
            self.metrics.audit_lost(1);
        }
    }

    /// Why nothing can be written; `None` when all is well.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        locked(&self.trouble).clone()
    }
}

/// Nothing that holds one of these locks panics.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keeper {
    /// Writes until `stop`, and then what is left.
    pub async fn run(mut self, store: Arc<Store>, clock: Arc<dyn Clock>, stop: CancellationToken) {
        let mut changes = store.changes();
        loop {
            changes.mark_unchanged();
            let next_look = Instant::now() + PACE;
            let went_well = self.catch_up(&store, &*clock).await;
            let wake = async {
                if !went_well {
                    sleep(PAUSE_AFTER_FAILURE).await;
                    return;
                }
                tokio::select! {
                    // It ends with the store.
                    _ = changes.changed() => {}
                    Some(record) = self.desk.recv() => self.unwritten.push(record.line()),
                }
                sleep_until(next_look).await;
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = wake => {}
            }
        }
        self.catch_up(&store, &*clock).await;
    }

    /// Writes all that is to be written. Answers whether that went well.
    async fn catch_up(&mut self, store: &Store, clock: &dyn Clock) -> bool {
        while let Ok(record) = self.desk.try_recv() {
            self.unwritten.push(record.line());
        }
        let outcome = self.write_all(store, clock).await;
        let trouble = outcome.err();
        let before = std::mem::replace(&mut *locked(&self.audit.trouble), trouble.clone());
        match (before, &trouble) {
            (None, Some(why)) => tracing::error!("the audit log is not written: {why}"),
            (Some(_), None) => tracing::info!("the audit log is written again"),
            _ => {}
        }
        if trouble.is_some() {
            self.audit.metrics.audit_failed();
            // What is only here is bounded; what happened to leases waits in the database.
            let over = self.unwritten.len().saturating_sub(MOST_WAITING);
            self.unwritten.drain(..over);
            self.audit.metrics.audit_lost(over as u64);
        }
        trouble.is_none()
    }

    async fn write_all(&mut self, store: &Store, clock: &dyn Clock) -> Result<(), String> {
        if !self.unwritten.is_empty() {
            let lines = self.unwritten.concat();
            self.append(lines).await?;
            self.audit
                .metrics
                .audit_written(self.unwritten.len() as u64);
            self.unwritten.clear();
        }
        let failed = |error: StoreError| error.to_string();
        loop {
            let facts = store.unaudited().await.map_err(failed)?;
            if facts.is_empty() {
                return Ok(());
            }
            let seen: Vec<_> = facts.iter().map(|fact| (fact.lease, fact.seq)).collect();
            let ahead = clock.ahead();
            let records = facts.into_iter();
            let records = records.filter_map(|fact| Record::of_lease(fact, ahead));
            let lines: Vec<String> = records.map(|record| record.line()).collect();
            self.append(lines.concat()).await?;
            self.audit.metrics.audit_written(lines.len() as u64);
            // Should the server die between the two, these are written once more.
            store.audited(&seen).await.map_err(failed)?;
        }
    }

    /// A disk that hangs holds up the audit log and nothing else.
    async fn append(&mut self, lines: String) -> Result<(), String> {
        let path = self.file.path().to_owned();
        let mut file = std::mem::replace(&mut self.file, AuditFile::new(path));
        let written = tokio::task::spawn_blocking(move || {
            let written = file.append(&lines);
            (file, written)
        });
        let (file, written) = written.await.map_err(|error| error.to_string())?;
        self.file = file;
        let path = self.file.path().display();
        written.map_err(|error| format!("cannot write to {path}: {error}"))
    }
}
