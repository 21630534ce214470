//! Reads the columns of one row. Whatever is not as this program writes it becomes an error that
//! names the row, never a panic and never a guess.

use std::fmt::Display;
use std::str::FromStr;

use rusqlite::types::ValueRef;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row, Sqlite, Type};
use time::OffsetDateTime;

use super::StoreError;
use super::words::Word;

/// A row, whoever read it.
#[derive(Clone, Copy)]
pub(super) enum Record<'r> {
    Reader(&'r SqliteRow),
    Writer(&'r rusqlite::Row<'r>),
}

impl<'r> From<&'r SqliteRow> for Record<'r> {
    fn from(row: &'r SqliteRow) -> Self {
        Self::Reader(row)
    }
}

impl<'r> From<&'r rusqlite::Row<'r>> for Record<'r> {
    fn from(row: &'r rusqlite::Row<'r>) -> Self {
        Self::Writer(row)
    }
}

/// What a column is read as.
pub(super) trait Cell<'r>: Sized + Decode<'r, Sqlite> + Type<Sqlite> {
    /// `None` when it is something else.
    fn read(value: ValueRef<'r>) -> Option<Self>;
}

impl Cell<'_> for i64 {
    fn read(value: ValueRef<'_>) -> Option<Self> {
        value.as_i64().ok()
    }
}

impl Cell<'_> for bool {
    fn read(value: ValueRef<'_>) -> Option<Self> {
        Some(value.as_i64().ok()? != 0)
    }
}

impl<'r> Cell<'r> for &'r str {
    fn read(value: ValueRef<'r>) -> Option<Self> {
        value.as_str().ok()
    }
}

impl Cell<'_> for String {
    fn read(value: ValueRef<'_>) -> Option<Self> {
        value.as_str().ok().map(str::to_owned)
    }
}

impl<'r, T: Cell<'r>> Cell<'r> for Option<T> {
    fn read(value: ValueRef<'r>) -> Option<Self> {
        match value {
            ValueRef::Null => Some(None),
            value => T::read(value).map(Some),
        }
    }
}

/// A row with its name for errors.
pub(super) struct Columns<'r> {
    row: Record<'r>,
    table: &'static str,
    id: String,
}

impl<'r> Columns<'r> {
    pub(super) fn new(table: &'static str, row: impl Into<Record<'r>>) -> Self {
        let (row, id) = (row.into(), String::new());
        let mut columns = Self { row, table, id };
        columns.id = columns
            .get("id")
            .unwrap_or_else(|_| "(without id)".to_owned());
        columns
    }

    /// The row is damaged in this way.
    pub(super) fn corrupt(&self, what: impl Into<String>) -> StoreError {
        StoreError::Corrupt {
            table: self.table,
            id: self.id.clone(),
            what: what.into(),
        }
    }

    /// A column as SQLite gives it.
    pub(super) fn get<T: Cell<'r>>(&self, name: &str) -> Result<T, StoreError> {
        match self.row {
            Record::Reader(row) => {
                let value = row.try_get(name);
                value.map_err(|error| self.corrupt(error.to_string()))
            }
            Record::Writer(row) => {
                let value = row.get_ref(name);
                let value = value.map_err(|error| self.corrupt(error.to_string()))?;
                let of_another_kind = || {
                    let kind = value.data_type();
                    self.corrupt(format!("`{name}` is of the kind {kind}, which it never is"))
                };
                T::read(value).ok_or_else(of_another_kind)
            }
        }
    }

    /// A column that the row's state demands.
    pub(super) fn need<T: Cell<'r>>(&self, name: &str) -> Result<T, StoreError> {
        self.get::<Option<T>>(name)?
            .ok_or_else(|| self.corrupt(format!("`{name}` is missing in this state")))
    }

    /// A whole number that must fit.
    pub(super) fn number<T: TryFrom<i64>>(&self, name: &str) -> Result<T, StoreError> {
        let value: i64 = self.need(name)?;
        T::try_from(value).map_err(|_| self.corrupt(format!("`{name}` is {value}, out of range")))
    }

    /// A whole number that may be missing and must fit otherwise.
    pub(super) fn maybe_number<T: TryFrom<i64>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, StoreError> {
        match self.get::<Option<i64>>(name)? {
            Some(_) => self.number(name).map(Some),
            None => Ok(None),
        }
    }

    /// A text that must be an id.
    pub(super) fn parse<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T, StoreError> {
        let text: &str = self.need(name)?;
        text.parse()
            .map_err(|error| self.corrupt(format!("`{name}`: {error}")))
    }

    /// A text that may be missing and must be an id otherwise.
    pub(super) fn maybe_parse<T: FromStr<Err: Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, StoreError> {
        match self.get::<Option<&str>>(name)? {
            Some(_) => self.parse(name).map(Some),
            None => Ok(None),
        }
    }

    /// A word that must be known.
    pub(super) fn word<T: Word>(&self, name: &str) -> Result<T, StoreError> {
        let text: &str = self.need(name)?;
        T::from_word(text).ok_or_else(|| self.unknown(name, text))
    }

    /// A word that may be missing and must be known otherwise.
    pub(super) fn maybe_word<T: Word>(&self, name: &str) -> Result<Option<T>, StoreError> {
        match self.get::<Option<&str>>(name)? {
            Some(_) => self.word(name).map(Some),
            None => Ok(None),
        }
    }

    /// The column has a word that this program does not know.
    pub(super) fn unknown(&self, name: &str, word: &str) -> StoreError {
        let word: String = word.chars().take(64).collect();
        self.corrupt(format!("`{name}` is `{word}`, which is unknown"))
    }

    /// A JSON text.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, StoreError> {
        let text: &str = self.need(name)?;
        serde_json::from_str(text).map_err(|error| self.corrupt(format!("`{name}`: {error}")))
    }

    /// A moment.
    pub(super) fn time(&self, name: &str) -> Result<OffsetDateTime, StoreError> {
        let micros: i64 = self.need(name)?;
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000)
            .map_err(|_| self.corrupt(format!("`{name}` is {micros}, which is no time")))
    }

    /// A moment that may be missing.
    pub(super) fn maybe_time(&self, name: &str) -> Result<Option<OffsetDateTime>, StoreError> {
        match self.get::<Option<i64>>(name)? {
            Some(_) => self.time(name).map(Some),
            None => Ok(None),
        }
    }
}

/// A moment as it stands in the tables: microseconds since 1970 in UTC. Finer parts are cut off. The
/// calendar of `time` ends in the year 9999, so the number always fits.
pub(super) fn micros(moment: OffsetDateTime) -> i64 {
    let micros = moment.unix_timestamp_nanos().div_euclid(1000);
    i64::try_from(micros).unwrap_or(i64::MAX)
}

/// A moment as it reads back from the tables.
pub(super) fn kept(moment: OffsetDateTime) -> OffsetDateTime {
    let cut_off = moment.unix_timestamp_nanos().rem_euclid(1000);
    let cut_off = i64::try_from(cut_off).unwrap_or_default();
    let moment = moment - time::Duration::nanoseconds(cut_off);
    moment.to_offset(time::UtcOffset::UTC)
}
