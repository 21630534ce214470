//! Takes the write-ahead log into the database beside the writer. Nobody who commits waits for that, which
//! flushes the disk twice and writes thousands of pages: the keeper takes in all but what is written meanwhile, and the
//! writer only the rest. SQLite begins its log anew when nothing of it is left to be taken in, and only the writer
//! can see to that, because nobody writes while it does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::opening::Opening;
use super::reserve::Reserve;
use super::{StoreError, locked};

/// After how many pages of the writer's, of 4 KiB, the log is taken in: 4 MiB.
const PAGES: u64 = 1024;

/// After how many the writer waits for the keeper, which is slower: the log must not grow without end. Before the
/// longest transaction has come to what is set aside for the log (`reserve.rs`).
const MOST_PAGES: u64 = 5120;

/// With so many pages the log is to begin anew: 12 MiB. Fewer would be taken in again and again, more would
/// be read back after a crash.
const LOG_PAGES: i64 = 3072;

/// The writer's hold on it; it ends with this.
#[derive(Debug)]
pub(super) struct Keeper {
    /// Says that there is something to take in.
    call: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    /// The writer's pages since the last call.
    since_call: u64,
    /// Those since the log began anew.
    in_log: u64,
}

/// What both know.
#[derive(Debug, Default)]
struct Shared {
    /// Held by whoever takes in the log: SQLite turns a second one away.
    at_work: Mutex<()>,
    /// Little of a long log is left to be taken in.
    little_is_left: AtomicBool,
    keepers: Told,
    writers: Told,
}

/// Whether it was said of one of both that it cannot take the log in: the other may well be able to.
#[derive(Debug, Default)]
struct Told(AtomicBool);

impl Told {
    /// Has people know, once, that the log is not taken in by `who`, and that it is again.
    fn tell<T>(&self, who: &str, taken_in: Result<T, StoreError>) -> Option<T> {
        let told = self.0.swap(taken_in.is_err(), Ordering::Relaxed);
        match taken_in {
            Ok(done) => {
                if told {
                    tracing::info!("the {who} takes the log into the database again");
                }
                Some(done)
            }
            Err(error) => {
                if !told {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the {who} cannot take the log into the database; it is tried again"
                    );
                }
                None
            }
        }
    }
}

/// The keeper waits as long as the writer has this.
pub(super) type Turn<'k> = MutexGuard<'k, ()>;

impl Keeper {
    /// Begins to wait for calls.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(opening: Opening, reserve: Arc<Reserve>) -> Result<Self, StoreError> {
        // One more call than is being answered is enough: it is about all that was written before.
        let (call, calls) = sync_channel(1);
        let shared = Arc::<Shared>::default();
        let its = shared.clone();
        let thread = std::thread::Builder::new()
            .name("store-keeper".to_owned())
            .spawn(move || keep(&opening, &reserve, &calls, &its))
            .map_err(|error| StoreError::Open(Arc::new(error)))?;
        Ok(Self {
            call: Some(call),
            thread: Some(thread),
            shared,
            since_call: 0,
            in_log: 0,
        })
    }

    /// The writer has written so many pages more.
    pub(super) fn wrote(&mut self, pages: u64) {
        self.in_log += pages;
        self.since_call += pages;
        if self.since_call >= PAGES {
            self.since_call = 0;
            if let Some(call) = &self.call {
                // One that is called already comes again.
                let _ = call.try_send(());
            }
        }
    }

    /// Whether the writer is to take in the rest of the log now.
    pub(super) fn writers_turn(&self) -> Option<Turn<'_>> {
        let Shared {
            at_work,
            little_is_left,
            ..
        } = &*self.shared;
        if self.in_log >= MOST_PAGES {
            return Some(locked(at_work));
        }
        if !little_is_left.load(Ordering::Relaxed) {
            return None;
        }
        match at_work.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            // The keeper took it up again, so that it is more.
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// What became of it when the writer took it in is told to people.
    pub(super) fn tell<T>(&self, taken_in: Result<T, StoreError>) -> Option<T> {
        self.shared.writers.tell("writer", taken_in)
    }

    /// Nothing of the log is left, or as little as readers leave.
    pub(super) fn begins_anew(&mut self, wholly: bool) {
        self.shared.little_is_left.store(false, Ordering::Relaxed);
        // Who reads now will have gone by then.
        self.in_log = if wholly { 0 } else { MOST_PAGES - PAGES };
    }
}

impl Drop for Keeper {
    /// Its connection must not be the last one, with which the log goes.
    fn drop(&mut self) {
        drop(self.call.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to answer, a panic included.
            let _ = thread.join();
        }
    }
}

fn keep(opening: &Opening, reserve: &Reserve, calls: &Receiver<()>, shared: &Shared) {
    let mut connection = None;
    while calls.recv().is_ok() {
        let turn = locked(&shared.at_work);
        let taken_in = take_in(&mut connection, opening);
        drop(turn);
        // As long as it does not work the writer takes in all that there is.
        if let Some(pages) = shared.keepers.tell("keeper", taken_in) {
            // What was taken in is on its way to the disk. The writer would wait for it.
            reserve.flush();
            let is_long = pages >= LOG_PAGES;
            shared.little_is_left.store(is_long, Ordering::Relaxed);
        }
    }
}

/// Takes in what nobody reads any more. Answers how many pages the log has.
fn take_in(connection: &mut Option<Connection>, opening: &Opening) -> Result<i64, StoreError> {
    let connection = match connection {
        Some(connection) => connection,
        none => none.insert(opening.writer()?),
    };
    let pages = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1));
    Ok(pages?)
}
