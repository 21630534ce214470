//! What outlives the server: leases and VMs, in one SQLite file. The only room that speaks SQL, and
//! it decides nothing: every method writes what it is told if the row is still as the caller saw it,
//! and answers `None` otherwise ("a lost race: look again").
//!
//! Not responsible for keeping a second server away: the lock on the state folder does that.

mod columns;
mod deadlines;
mod error;
mod events;
mod leases;
mod reserve;
mod rows;
mod schema;
mod vms;
mod words;

#[cfg(test)]
mod tests;

pub use deadlines::Moved;
pub use error::StoreError;
pub use leases::{Idempotency, Inserted, NewLease, Wish};

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection, Sqlite, Transaction};
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::clock::random_bytes;
use crate::ids::InstallId;
use crate::lease::{LeaseRow, VmRow};

use reserve::Reserve;

/// How long a statement waits for another connection's write to end.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Reads go on beside the one writer that SQLite allows.
const CONNECTIONS: u32 = 4;

/// The database.
#[derive(Debug)]
pub struct Store {
    pool: SqlitePool,
    install: InstallId,
    changes: watch::Sender<u64>,
    reserve: Arc<Reserve>,
}

impl Store {
    /// Opens the database file, makes it if there is none, and brings its tables up to date.
    ///
    /// # Errors
    /// When the file cannot be had, is no database, or was made by a newer version of the server.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        // SQLite would let everybody read it. Its other files get the mode of this one. When it cannot
        // be made, SQLite's own words about it are the better ones.
        let _ = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path);
        Self::open_with(options(path)).await
    }

    /// Sets disk space aside for what is to be written when none is left; see [`Reserve`].
    async fn set_space_aside(&self) {
        let reserve = self.reserve.clone();
        // A file system that hangs must not hold up who called.
        let _ = tokio::task::spawn_blocking(move || reserve.top_up()).await;
    }

    async fn open_with(options: SqliteConnectOptions) -> Result<Self, StoreError> {
        let reserve = Arc::new(Reserve::new(options.get_filename()));
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS)
            // The write-ahead log goes with the last connection, and with it the space set aside.
            .idle_timeout(None)
            .max_lifetime(None)
            // SQLite itself ends a transaction when the disk is full; the library then believes that it
            // is still under way and would refuse to begin another one. A new connection knows better.
            .before_acquire(|connection, _| {
                let usable = !connection.is_in_transaction();
                Box::pin(async move { Ok(usable) })
            })
            .connect_with(options)
            .await?;
        schema::migrate(&pool).await?;
        let install = install_id(&pool).await?;
        let store = Self {
            pool,
            install,
            changes: watch::Sender::new(0),
            reserve,
        };
        store.set_space_aside().await;
        Ok(store)
    }

    /// Closes the file in good order. Dropping the store is safe too, but leaves the write-ahead log
    /// to be taken in at the next start.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// The id of this installation, drawn when the database was made. Also the node id in its rows.
    #[must_use]
    pub fn install_id(&self) -> InstallId {
        self.install
    }

    /// Tells of every committed write. The number means nothing but *something changed*.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// All VMs that are not gone and all leases that have not ended, as of one moment.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub async fn snapshot(&self) -> Result<(Vec<VmRow>, Vec<LeaseRow>), StoreError> {
        // One transaction, so that a lease and its VM are never seen on two sides of a write.
        let mut tx = self.pool.begin().await?;
        let vms = vms::live(&mut tx, self.install).await?;
        let leases = leases::live(&mut tx, self.install).await?;
        tx.commit().await?;
        Ok((vms, leases))
    }

    /// Forgets leases that ended and VMs that were gone before this moment. Answers how many.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn prune(&self, before: OffsetDateTime) -> Result<u64, StoreError> {
        let mut tx = self.write().await?;
        // Leases first: they refer to VMs.
        let leases = leases::prune(&mut tx, self.install, before).await?;
        let vms = vms::prune(&mut tx, self.install, before).await?;
        self.commit(tx).await?;
        // The file grew, or there was no space before.
        self.set_space_aside().await;
        Ok(leases + vms)
    }

    /// Begins a transaction that writes. It takes SQLite's write lock at once: one that read first
    /// and wants to write later can be refused because another has written in between.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        // In a task of its own, so that a caller that goes away cannot stop it halfway: between the
        // statement and the transaction's guard the library has a place to wait, and what is dropped
        // there would keep the write lock with nobody to give it back. A guard that nobody takes is
        // dropped, which rolls back.
        let pool = self.pool.clone();
        let begun = tokio::spawn(async move { pool.begin_with("BEGIN IMMEDIATE").await });
        match begun.await {
            Ok(begun) => Ok(begun?),
            Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            // The runtime goes down, and the caller with it.
            Err(_) => Err(sqlx::Error::WorkerCrashed.into()),
        }
    }

    /// Commits and tells those who wait for changes.
    async fn commit(&self, tx: Transaction<'static, Sqlite>) -> Result<(), StoreError> {
        /// Tells also when the caller goes away during the commit, which may succeed nevertheless; to
        /// tell without need costs a look.
        struct Tell<'a>(&'a watch::Sender<u64>);
        impl Drop for Tell<'_> {
            fn drop(&mut self) {
                self.0.send_modify(|count| *count = count.wrapping_add(1));
            }
        }
        let _tell = Tell(&self.changes);
        tx.commit().await?;
        Ok(())
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .journal_mode(SqliteJournalMode::Wal)
        // A commit survives the death of the server, though not a power cut, which no VM survives
        // either. It saves a disk flush at every step of a lease.
        .synchronous(SqliteSynchronous::Normal)
}

/// Reads the installation's id, or draws it in a new database.
async fn install_id(pool: &SqlitePool) -> Result<InstallId, StoreError> {
    let bytes = random_bytes().map_err(StoreError::Random)?;
    let drawn = InstallId::from_bits(u64::from_be_bytes(bytes));
    // Two that open a new database at once end up with the same id.
    sqlx::query("INSERT INTO meta (name, value) VALUES ('install_id', $1) ON CONFLICT DO NOTHING")
        .bind(drawn.to_string())
        .execute(pool)
        .await?;
    let text: String = sqlx::query_scalar("SELECT value FROM meta WHERE name = 'install_id'")
        .fetch_one(pool)
        .await?;
    InstallId::from_str(&text).map_err(|error| StoreError::Corrupt {
        table: "meta",
        id: "install_id".to_owned(),
        what: error.to_string(),
    })
}
