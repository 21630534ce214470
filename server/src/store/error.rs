//! What can go wrong with the store.

use std::sync::Arc;

use sqlx::migrate::MigrateError;

use crate::lease::IllegalTransition;

/// What a library said.
type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// The store could not do what it was asked for. A lost race is not among these: methods answer it
/// with `None`.
///
/// Its sources are shared, as several callers may have been in the transaction that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or created.
    #[error(
        "the database cannot be opened or created; check that its folder exists and belongs to the \
         server's user"
    )]
    Open(#[source] Cause),
    /// The file holds something else, or was damaged.
    #[error(
        "the database file is damaged or no SQLite database; the server will not touch it: move it \
         away to start with an empty one, which gives up the leases in it"
    )]
    NotADatabase(#[source] Cause),
    /// The file may not be written to.
    #[error("the database cannot be written to; check the owner and mode of its file and folder")]
    ReadOnly(#[source] Cause),
    /// A newer program made the tables.
    #[error(
        "the database was made by a newer version of this server (it has schema change {version}, \
         which this version does not know); run that version or newer"
    )]
    Newer {
        /// The first change that is not known here.
        version: i64,
    },
    /// The tables are not those that this program would have made.
    #[error("the database has tables that this version of the server cannot bring up to date")]
    Schema(#[source] Arc<MigrateError>),
    /// No space is left.
    #[error("the disk that holds the database is full; free some space, nothing was lost")]
    DiskFull(#[source] Cause),
    /// Another process holds the file for too long.
    #[error("the database is locked by another process; end whatever else has it open")]
    Locked(#[source] Cause),
    /// A row says something that this program never writes.
    #[error(
        "row {id} of table `{table}` in the database is damaged: {what}; stop the server and repair \
         or delete that row"
    )]
    Corrupt {
        /// Which table.
        table: &'static str,
        /// Which row.
        id: String,
        /// What is wrong with it.
        what: String,
    },
    /// The caller asked for a change that the state diagram does not have.
    #[error("a transition was refused")]
    Illegal(#[from] IllegalTransition),
    /// The caller wanted to assign a VM without a lease. A bug of the caller.
    #[error("a VM becomes assigned together with its lease only")]
    AssignedAlone,
    /// The caller assigned another VM than the grant names, or one of another kind. A bug of the
    /// caller.
    #[error("the lease, the VM and the grant do not belong together")]
    Mismatch,
    /// The system has no random numbers to draw an installation id from.
    #[error("no random numbers could be had for a new installation id: {0}")]
    Random(getrandom::Error),
    /// The store was closed; the server stops.
    #[error("the database was closed because the server stops")]
    Closed,
    /// Anything else that the database answers.
    #[error("the database refused a statement")]
    Sql(#[source] Cause),
}

/// SQLite's result codes that are told apart (sqlite.org/rescode.html). The low byte is the primary
/// code; the rest says more.
mod code {
    pub(super) const BUSY: i32 = 5;
    pub(super) const READONLY: i32 = 8;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const FULL: i32 = 13;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const NOTADB: i32 = 26;
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = error
            .as_database_error()
            .and_then(|db| db.code()?.parse::<i32>().ok());
        Self::of(code, Arc::new(error))
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error().map(|error| error.extended_code);
        Self::of(code, Arc::new(error))
    }
}

impl StoreError {
    /// What SQLite's result code means.
    fn of(code: Option<i32>, cause: Cause) -> Self {
        match code.map(|code| code & 0xff) {
            Some(code::BUSY) => Self::Locked(cause),
            Some(code::READONLY) => Self::ReadOnly(cause),
            Some(code::CORRUPT | code::NOTADB) => Self::NotADatabase(cause),
            Some(code::FULL) => Self::DiskFull(cause),
            Some(code::CANTOPEN) => Self::Open(cause),
            _ => Self::Sql(cause),
        }
    }
}

impl From<MigrateError> for StoreError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::VersionMissing(version) => Self::Newer { version },
            MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => {
                source.into()
            }
            other => Self::Schema(Arc::new(other)),
        }
    }
}
