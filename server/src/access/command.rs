//! `remote-dockerd token`: the book of tokens from the command line. It needs no running server, and a
//! running one needs no word of it.

use std::path::Path;

use serde::Serialize;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::book::{Token, TokenState};
use super::file::{self, FileError};
use super::{Scope, Scopes, TokenHash, secret};
use crate::audit::{AuditFile, Event, Record};
use crate::config::{Config, DEFAULT_PROJECT};
use crate::state_dir;
use crate::table::{self, minute};

/// What a new token is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// What the operator calls it.
    pub name: String,
    /// Whose leases it is for.
    pub project: String,
    /// How long it is good; `None` for until it is taken back.
    pub good_for: Option<std::time::Duration>,
    /// What it may be used for; nothing said means leases.
    pub scopes: Vec<Scope>,
}

/// What was asked for cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum TokenCommandError {
    /// The book of tokens.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no folder for the book.
    #[error(
        "there is no state folder {path}: start the server once, or say where it is with `--state-dir`",
        path = path.display()
    )]
    NoStateDir {
        /// The folder.
        path: std::path::PathBuf,
    },
    /// The configuration does not have the project.
    #[error(
        "there is no project `{project}`; there are: {known}. Write a table `[projects.{project}]` into \
         the configuration, which may be empty, and start the server again"
    )]
    NoProject {
        /// Which was named.
        project: String,
        /// Those there are.
        known: String,
    },
    /// It would be good for ever and a day.
    #[error("no token can be good for so long: leave `--expires` out for one that does not expire")]
    TooLong,
    /// The system gives no random numbers.
    #[error("no random numbers could be had for a new token")]
    Random(#[from] getrandom::Error),
}

/// A token that was made.
#[derive(Debug)]
pub struct Made {
    /// The secret. It is nowhere else.
    pub token: String,
    /// What the book says about it.
    pub entry: Token,
    /// Why it is not in the audit log.
    pub unaudited: Option<String>,
}

/// Makes a token.
///
/// # Errors
/// When there cannot be such a token, or the book cannot be written.
pub fn create(
    config: &Config,
    new: NewToken,
    now: OffsetDateTime,
) -> Result<Made, TokenCommandError> {
    let path = book_of(config)?;
    let NewToken { name, project, .. } = new;
    if project != DEFAULT_PROJECT && !config.projects.contains_key(&project) {
        let mut known: Vec<&str> = vec![DEFAULT_PROJECT];
        known.extend(config.projects.keys().map(String::as_str));
        known.dedup();
        let known = known.join(", ");
        return Err(TokenCommandError::NoProject { project, known });
    }
    let expires_at = match new.good_for {
        None => None,
        Some(good_for) => {
            let good_for = Duration::try_from(good_for).ok();
            let end = good_for.and_then(|good_for| now.checked_add(good_for));
            // A date that cannot be written down could not be read again.
            let end = end.filter(|end| end.format(&Rfc3339).is_ok());
            Some(end.ok_or(TokenCommandError::TooLong)?)
        }
    };
    let scopes = if new.scopes.is_empty() {
        Scopes::of([Scope::Lease, Scope::Read])
    } else {
        Scopes::of(new.scopes)
    };
    let token = secret::draw()?;
    let ends_with = token.get(token.len().saturating_sub(4)..);
    let entry = Token {
        name,
        project,
        scopes,
        sha256: TokenHash::of(token.as_bytes()),
        ends_with: ends_with.unwrap_or_default().to_owned(),
        created_at: now,
        expires_at,
        revoked_at: None,
    };
    file::change(&path, |book| book.add(entry.clone(), now))?;
    let unaudited = note(config, Event::TokenCreated, &entry, now);
    Ok(Made {
        token,
        entry,
        unaudited,
    })
}

/// Takes the token of this name back. Answers as well why that is not in the audit log, if it is not.
///
/// # Errors
/// When there is none, or the book cannot be written.
pub fn revoke(
    config: &Config,
    name: &str,
    now: OffsetDateTime,
) -> Result<(Token, Option<String>), TokenCommandError> {
    let path = book_of(config)?;
    let token = file::change(&path, |book| book.revoke(name, now))?;
    let unaudited = note(config, Event::TokenRevoked, &token, now);
    Ok((token, unaudited))
}

/// Writes into the audit log what was done. A book that was changed is not changed back when that fails:
/// answers what to say about it.
fn note(config: &Config, event: Event, token: &Token, now: OffsetDateTime) -> Option<String> {
    let path = config.audit_file()?;
    let record = Record::token(now, event, token, nix::unistd::getuid().as_raw());
    let written = AuditFile::new(path.clone()).append(&record.line());
    let error = written.err()?;
    let path = path.display();
    Some(format!(
        "warning: this is not in the audit log {path}: {error}\n"
    ))
}

/// All tokens that are remembered.
///
/// # Errors
/// When the book cannot be read.
pub fn list(config: &Config) -> Result<Vec<Token>, TokenCommandError> {
    let path = book_of(config)?;
    Ok(file::read(&path)?.tokens().to_vec())
}

fn book_of(config: &Config) -> Result<std::path::PathBuf, TokenCommandError> {
    let folder: &Path = &config.state_dir;
    if !folder.is_dir() {
        let path = folder.to_owned();
        return Err(TokenCommandError::NoStateDir { path });
    }
    Ok(state_dir::tokens_in(folder))
}

/// What to say to who made a token.
#[must_use]
pub fn made(token: &Token) -> String {
    let Token {
        name,
        project,
        scopes,
        ..
    } = token;
    let until = match token.expires_at {
        Some(end) => format!("until {}", minute(end)),
        None => format!("until `remote-dockerd token revoke {name}`"),
    };
    format!(
        "token `{name}` of project `{project}` for {scopes}, good {until}; it is shown this once and kept \
         nowhere\n"
    )
}

/// What to say to who took a token back.
#[must_use]
pub fn revoked(token: &Token) -> String {
    let (name, project) = (&token.name, &token.project);
    format!(
        "token `{name}` of project `{project}` is refused from now on; leases that were made with it go on\n"
    )
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    project: &'a str,
    scopes: &'a Scopes,
    state: TokenState,
    ends_with: &'a str,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    revoked_at: Option<OffsetDateTime>,
}

/// The tokens for programs.
#[must_use]
pub fn json(tokens: &[Token], now: OffsetDateTime) -> String {
    fn line(token: &Token, now: OffsetDateTime) -> Line<'_> {
        let Token {
            name,
            project,
            scopes,
            sha256: _,
            ends_with,
            created_at,
            expires_at,
            revoked_at,
        } = token;
        Line {
            name,
            project,
            scopes,
            state: token.state(now),
            ends_with,
            created_at: *created_at,
            expires_at: *expires_at,
            revoked_at: *revoked_at,
        }
    }
    let lines: Vec<Line<'_>> = tokens.iter().map(|token| line(token, now)).collect();
    // Texts and times always have a JSON form.
    let mut text = serde_json::to_string_pretty(&lines).unwrap_or_default();
    text.push('\n');
    text
}

/// The tokens for people.
#[must_use]
pub fn table(tokens: &[Token], now: OffsetDateTime) -> String {
    let head = [
        "NAME",
        "PROJECT",
        "SCOPES",
        "STATE",
        "ENDS WITH",
        "CREATED",
        "EXPIRES",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(tokens.iter().map(|token| {
        let state = match token.state(now) {
            TokenState::Good => "good",
            TokenState::Expired => "expired",
            TokenState::Revoked => "revoked",
        };
        [
            token.name.clone(),
            token.project.clone(),
            token.scopes.to_string(),
            state.to_owned(),
            format!("…{}", token.ends_with),
            minute(token.created_at),
            token.expires_at.map_or_else(|| "never".to_owned(), minute),
        ]
    }));
    table::columns(&rows)
}
