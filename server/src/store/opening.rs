//! How the database file is opened: by the readers, which are asynchronous, and by the one writer, which is a
//! thread of its own and calls SQLite itself. Both are the same SQLite, which knows all that this process has open.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

use super::StoreError;

/// How long a statement waits for another connection's write to end.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// With so many pages of 4 KiB whoever commits takes the write-ahead log into the database: 24 MiB. Only if the keeper
/// has not come to it.
const LOG_PAGES: u32 = 6144;
/// More than the writer has statements: none is prepared twice.
const STATEMENTS_KEPT: usize = 128;

/// Which file, and how long one waits for it.
#[derive(Debug, Clone)]
pub(super) struct Opening {
    path: PathBuf,
    busy_timeout: Duration,
    read_only: bool,
    /// How many pages the file may have, where it may not have as many as it likes.
    most_pages: Option<u32>,
}

impl Opening {
    /// As the server opens it.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            busy_timeout: BUSY_TIMEOUT,
            read_only: false,
            most_pages: None,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// For the connections that only read, and for the first one, which brings the tables up to date.
    pub(super) fn reader(&self) -> SqliteConnectOptions {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(true)
            .read_only(self.read_only)
            .foreign_keys(true)
            .busy_timeout(self.busy_timeout)
            .journal_mode(SqliteJournalMode::Wal)
            .pragma("wal_autocheckpoint", LOG_PAGES.to_string())
            .synchronous(SqliteSynchronous::Normal);
        match self.most_pages {
            Some(pages) => options.pragma("max_page_count", pages.to_string()),
            None => options,
        }
    }

    /// The connection of the one writer, to a file that a reader has opened before.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub(super) fn writer(&self) -> Result<Connection, StoreError> {
        // One thread has it, so SQLite need not guard it.
        let mut flags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
        flags |= match self.read_only {
            true => OpenFlags::SQLITE_OPEN_READ_ONLY,
            false => OpenFlags::SQLITE_OPEN_READ_WRITE,
        };
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(self.busy_timeout)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        connection.pragma_update(None, "foreign_keys", true)?;
        // A commit survives the death of the server, though not a power cut, which no VM survives
        // either. It saves a disk flush at every step of a lease.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        // The answer to these two is a row.
        let set = |name, value| connection.pragma_update_and_check(None, name, value, |_| Ok(()));
        set("wal_autocheckpoint", LOG_PAGES)?;
        if let Some(pages) = self.most_pages {
            set("max_page_count", pages)?;
        }
        Ok(connection)
    }
}

#[cfg(test)]
impl Opening {
    pub(super) fn impatient(mut self, busy_timeout: Duration) -> Self {
        self.busy_timeout = busy_timeout;
        self
    }

    pub(super) fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    pub(super) fn with_most_pages(mut self, pages: u32) -> Self {
        self.most_pages = Some(pages);
        self
    }
}
