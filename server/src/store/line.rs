//! The writer's own connection to SQLite. Statements are prepared once and carried out where they are called:
//! nobody is woken between two of them.

use std::cell::Cell;

use rusqlite::{CachedStatement, Connection, Row, ToSql};

use super::StoreError;
use super::opening::Opening;

/// Parameters of a statement: the first is `$1`.
pub(super) type Parameters<'p> = &'p [&'p dyn ToSql];

/// The connection.
#[derive(Debug)]
pub(super) struct Line {
    connection: Connection,
    /// How many statements were carried out.
    #[cfg(test)]
    statements: Cell<u64>,
    /// How many pages were written to the log, as far as it was asked for.
    pages: Cell<u64>,
}

impl Line {
    /// Connects.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub(super) fn open(opening: &Opening) -> Result<Self, StoreError> {
        Ok(Self {
            connection: opening.writer()?,
            #[cfg(test)]
            statements: Cell::default(),
            pages: Cell::default(),
        })
    }

    /// Carries a statement out that answers no rows. Answers how many rows it changed.
    ///
    /// # Errors
    /// When SQLite refuses it.
    pub(super) fn execute(
        &self,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<usize, StoreError> {
        let mut statement = self.prepared(sql, parameters)?;
        Ok(statement.raw_execute()?)
    }

    /// Carries a statement out. Answers what `read` makes of its rows.
    ///
    /// # Errors
    /// When SQLite refuses it, or with the first of `read`.
    pub(super) fn all<T>(
        &self,
        sql: &str,
        parameters: Parameters<'_>,
        read: impl Fn(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = self.prepared(sql, parameters)?;
        let mut rows = statement.raw_query();
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            all.push(read(row)?);
        }
        Ok(all)
    }

    /// The same of the first row, if there is one. All that the statement changes is changed when it answers
    /// its first row.
    ///
    /// # Errors
    /// When SQLite refuses it, or that of `read`.
    pub(super) fn first<T>(
        &self,
        sql: &str,
        parameters: Parameters<'_>,
        read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let mut statement = self.prepared(sql, parameters)?;
        let mut rows = statement.raw_query();
        rows.next()?.map(read).transpose()
    }

    /// The same of the row that it must answer.
    ///
    /// # Errors
    /// When SQLite refuses it or answers none, or that of `read`.
    pub(super) fn one<T>(
        &self,
        sql: &str,
        parameters: Parameters<'_>,
        read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let row = self.first(sql, parameters, read)?;
        row.ok_or_else(|| rusqlite::Error::QueryReturnedNoRows.into())
    }

    /// Takes the log into the database, outside of a transaction. Answers whether that was all of it; readers may
    /// be in the way of some.
    ///
    /// # Errors
    /// When that fails; another time will do.
    pub(super) fn take_log_in(&self) -> Result<bool, StoreError> {
        self.one("PRAGMA wal_checkpoint(PASSIVE)", &[], |row| {
            let (pages, taken_in): (i64, i64) = (row.get(1)?, row.get(2)?);
            Ok(taken_in == pages)
        })
    }

    /// How many statements were carried out so far.
    #[cfg(test)]
    pub(super) fn statements(&self) -> u64 {
        self.statements.get()
    }

    /// How many pages were written to the log so far.
    pub(super) fn pages_written(&self) -> u64 {
        use rusqlite::ffi::{SQLITE_DBSTATUS_CACHE_WRITE, SQLITE_OK, sqlite3_db_status};
        /// SQLite's own count has 31 bits, so it is to begin anew each time.
        const RESET: i32 = 1;
        let (mut count, mut most) = (0, 0);
        // SAFETY: the connection is open, belongs to this thread, and both numbers are where SQLite may write to.
        let code = unsafe {
            let handle = self.connection.handle();
            sqlite3_db_status(
                handle,
                SQLITE_DBSTATUS_CACHE_WRITE,
                &mut count,
                &mut most,
                RESET,
            )
        };
        debug_assert_eq!(code, SQLITE_OK, "it fails for want of a connection only");
        let all = self.pages.get() + u64::try_from(count).unwrap_or_default();
        self.pages.set(all);
        all
    }

    /// SQLite numbers parameters with names in the order in which they appear; here `$2` is the second, wherever
    /// it stands and however often.
    fn prepared(
        &self,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<CachedStatement<'_>, StoreError> {
        #[cfg(test)]
        self.statements.set(self.statements.get() + 1);
        let mut statement = self.connection.prepare_cached(sql)?;
        for place in 1..=statement.parameter_count() {
            let name = statement.parameter_name(place).unwrap_or_default();
            let number = name
                .strip_prefix('$')
                .and_then(|it| it.parse::<usize>().ok());
            let value = number.and_then(|number| parameters.get(number.checked_sub(1)?));
            let Some(value) = value else {
                let name = name.to_owned();
                return Err(rusqlite::Error::InvalidParameterName(name).into());
            };
            statement.raw_bind_parameter(place, *value)?;
        }
        Ok(statement)
    }
}
