//! What outlives the server: leases and VMs, in one SQLite file. The only room that speaks SQL, and
//! it decides nothing: every method writes what it is told if the row is still as the caller saw it,
//! and answers `None` otherwise ("a lost race: look again").
//!
//! Not responsible for keeping a second server away: the lock on the state folder does that.

mod audit;
mod columns;
mod deadlines;
mod error;
mod events;
mod keeper;
mod leases;
mod line;
mod news;
mod opening;
mod reserve;
mod rows;
mod schema;
mod taken;
mod transitions;
mod troubles;
mod vms;
mod words;
mod writer;

#[cfg(test)]
mod tests;

pub use deadlines::Moved;
pub use error::StoreError;
pub use events::MOST_EVENTS;
pub use leases::{Idempotency, Inserted, NewLease, Wish};
pub use news::{Changes, Follower, LeaseNews};
pub use troubles::MOST_TROUBLES;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use remote_docker_api::LeaseId;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::clock::random_bytes;
use crate::ids::InstallId;
use crate::lease::{LeaseRow, VmRow};

use news::News;
use opening::Opening;
use reserve::Reserve;
use writer::{Change, Desk, Operation, Writer};

/// Reads go on beside the one writer that SQLite allows, which has a connection of its own.
const READERS: u32 = 4;

/// How many leases, and how many VMs, are forgotten in one transaction: others wait for that long, and the log
/// grows by some ten pages for each.
const PRUNED_TOGETHER: usize = 100;

/// The database.
#[derive(Debug)]
pub struct Store {
    /// For reading, but for what is done before there is a writer.
    pool: SqlitePool,
    install: InstallId,
    reserve: Arc<Reserve>,
    news: Arc<News>,
    /// Whoever writes leaves an order here.
    desk: Mutex<Option<Desk>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    unwritten_heartbeat_at: Mutex<Option<OffsetDateTime>>,
    /// What was left there so far. Each may share a commit with others and waits for one.
    #[cfg(test)]
    orders: Mutex<Vec<&'static str>>,
    /// How often somebody looked a lease up.
    #[cfg(test)]
    lookups: std::sync::atomic::AtomicU64,
}

/// All that lives, as of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// VMs that are not gone.
    pub vms: Vec<VmRow>,
    /// Leases that have not ended, oldest first.
    pub leases: Vec<LeaseRow>,
    /// Ports that are taken, those of leases that are ending included.
    pub ports: Vec<(LeaseId, u16)>,
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
        Self::open_with(Opening::new(path)).await
    }

    /// Sets disk space aside for what is to be written when none is left; see [`Reserve`].
    async fn set_space_aside(&self) {
        let reserve = self.reserve.clone();
        // A file system that hangs must not hold up who called.
        let _ = tokio::task::spawn_blocking(move || reserve.top_up()).await;
    }

    async fn open_with(opening: Opening) -> Result<Self, StoreError> {
        let reserve = Arc::new(Reserve::new(opening.path()));
        let pool = SqlitePoolOptions::new()
            .max_connections(READERS)
            // The connection is a file of this process: it does not break between two uses.
            .test_before_acquire(false)
            // The write-ahead log goes with the last connection, and with it the space set aside.
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(opening.reader())
            .await?;
        schema::migrate(&pool).await?;
        let install = install_id(&pool).await?;
        let news = Arc::new(News::default());
        let (desk, writer) = Writer::start(opening, install, news.clone(), reserve.clone())?;
        let store = Self {
            pool,
            install,
            reserve,
            news,
            desk: Mutex::new(Some(desk)),
            writer: Mutex::new(Some(writer)),
            unwritten_heartbeat_at: Mutex::default(),
            #[cfg(test)]
            orders: Mutex::default(),
            #[cfg(test)]
            lookups: Default::default(),
        };
        store.set_space_aside().await;
        Ok(store)
    }

    /// Closes the file in good order, after what was ordered to be written. Dropping the store is safe
    /// too, but leaves the write-ahead log to be taken in at the next start.
    pub async fn close(&self) {
        drop(locked(&self.desk).take());
        let writer = locked(&self.writer).take();
        if let Some(writer) = writer {
            let ended = tokio::task::spawn_blocking(move || writer.join()).await;
            if let Ok(Err(panic)) = ended {
                std::panic::resume_unwind(panic);
            }
        }
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
        self.news.commits()
    }

    /// Tells of changes to one lease and of its events, from now on.
    #[must_use]
    pub fn news_of(&self, lease: LeaseId) -> LeaseNews {
        self.news.clone().of_lease(lease)
    }

    /// For whoever wants to have all rows and to keep them up to date.
    #[must_use]
    pub fn follow(&self) -> Follower {
        self.news.follow()
    }

    /// All that lives, as of one moment.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub async fn rows(&self) -> Result<Rows, StoreError> {
        // One transaction, so that a lease and its VM are never seen on two sides of a write.
        let mut tx = self.pool.begin().await?;
        let vms = vms::live(&mut tx, self.install).await?;
        let leases = leases::live(&mut tx, self.install).await?;
        let ports = leases::ports(&mut tx, self.install).await?;
        tx.commit().await?;
        Ok(Rows { vms, leases, ports })
    }

    /// All VMs that are not gone and all leases that have not ended, as of one moment.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub async fn snapshot(&self) -> Result<(Vec<VmRow>, Vec<LeaseRow>), StoreError> {
        let rows = self.rows().await?;
        Ok((rows.vms, rows.leases))
    }

    /// Forgets leases that ended and VMs that were gone before this moment, a few at a time. Answers how many.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn prune(&self, before: OffsetDateTime) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        loop {
            let Pruned { leases, vms } = self.write(Prune { before }).await?;
            forgotten += (leases + vms) as u64;
            if leases.max(vms) < PRUNED_TOGETHER {
                break;
            }
        }
        // The file grew, or there was no space before.
        self.set_space_aside().await;
        Ok(forgotten)
    }

    /// Has something written. It is carried out also when the caller goes away.
    async fn write<O: Operation>(&self, operation: O) -> Result<O::Answer, StoreError> {
        let desk = locked(&self.desk).clone().ok_or(StoreError::Closed)?;
        #[cfg(test)]
        locked(&self.orders).push(std::any::type_name::<O>());
        desk.write(operation).await
    }

    /// How often a lease was looked up by its id so far.
    #[cfg(test)]
    pub(crate) fn lookups(&self) -> u64 {
        self.lookups.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// How many statements the writer carried out so far, and how many pages it wrote to its log. To ask costs some
    /// statements as well.
    #[cfg(test)]
    pub(crate) async fn written(&self) -> (u64, u64) {
        self.write(Count).await.unwrap()
    }

    /// What was to be written since this was asked last, by the names of the operations.
    #[cfg(test)]
    pub(crate) fn take_orders(&self) -> Vec<&'static str> {
        let orders = std::mem::take(&mut *locked(&self.orders));
        let name = |path: &'static str| path.rsplit("::").next().unwrap_or(path);
        orders.into_iter().map(name).collect()
    }
}

/// Asks the writer what it carried out, the statements of this question included.
#[cfg(test)]
struct Count;

#[cfg(test)]
impl Operation for Count {
    type Answer = (u64, u64);

    fn run(&self, change: &mut Change<'_>) -> Result<(u64, u64), StoreError> {
        Ok((change.line.statements(), change.line.pages_written()))
    }
}

struct Prune {
    before: OffsetDateTime,
}

/// How many were forgotten.
struct Pruned {
    leases: usize,
    vms: usize,
}

impl Operation for Prune {
    type Answer = Pruned;

    fn run(&self, change: &mut Change<'_>) -> Result<Pruned, StoreError> {
        // Leases first: they refer to VMs.
        let leases = leases::prune(change.line, change.node, self.before, PRUNED_TOGETHER)?;
        let vms = vms::prune(change.line, change.node, self.before, PRUNED_TOGETHER)?;
        change.wrote();
        Ok(Pruned { leases, vms })
    }
}

/// Nothing that holds one of these locks panics.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
