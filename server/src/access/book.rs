//! The book of tokens: who has one, for what, and until when. Pure; `file.rs` keeps it on disk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use subtle::{Choice, ConditionallySelectable};
use time::{Duration, OffsetDateTime};

use super::{Scopes, TokenHash};

/// How many tokens the book holds at most. Every one is compared with what a request shows.
const MOST_TOKENS: usize = 4096;

/// How long the book remembers tokens that are good for nothing any more. For so long whoever shows one
/// is told why it is refused.
const REMEMBERED: Duration = Duration::days(90);

/// A token, but not the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// What the operator calls it.
    pub name: String,
    /// Whose leases it is for.
    pub project: String,
    /// What it may be used for.
    pub scopes: Scopes,
    /// The token is known again by this.
    pub sha256: TokenHash,
    /// Its last four characters, to tell by eye which one it is.
    pub ends_with: String,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// From when on it is not good any more, in the time that the host's clock shows.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When it was taken back.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
}

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenState {
    /// It opens what its scopes say.
    Good,
    /// Its time is over.
    Expired,
    /// It was taken back.
    Revoked,
}

impl Token {
    /// What it is good for at this moment.
    #[must_use]
    pub fn state(&self, now: OffsetDateTime) -> TokenState {
        if self.revoked_at.is_some() {
            TokenState::Revoked
        } else if self.expires_at.is_some_and(|end| now >= end) {
            TokenState::Expired
        } else {
            TokenState::Good
        }
    }

    /// Since when it is good for nothing.
    fn over_since(&self) -> Option<OffsetDateTime> {
        let ends = [self.revoked_at, self.expires_at];
        ends.into_iter().flatten().min()
    }
}

/// The tokens that there are, and those that there were lately.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book(Vec<Token>);

/// What is asked of the book cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// No name for a token.
    #[error("`{0}` is no name for a token: use 1 to 64 letters, digits, `-`, `_` and `.`")]
    Name(String),
    /// A good token has that name.
    #[error(
        "there is a token `{0}` already: take it back with `remote-dockerd token revoke {0}`, or choose \
         another name"
    )]
    Taken(String),
    /// It would be good for nothing.
    #[error("a token without a scope would be good for nothing")]
    NoScope,
    /// No token has that name that could be taken back.
    #[error(
        "there is no token `{0}` to take back: `remote-dockerd token list` shows those there are"
    )]
    Unknown(String),
    /// The book is full.
    #[error("there are {MOST_TOKENS} tokens already: revoke those that nobody needs")]
    Full,
    /// Two tokens cannot be told apart.
    #[error("the tokens `{0}` and `{1}` are the same, so they cannot be told apart")]
    Same(String, String),
}

impl Book {
    /// Made of these.
    ///
    /// # Errors
    /// When they cannot have come from this book.
    pub fn new(tokens: Vec<Token>) -> Result<Self, BookError> {
        if tokens.len() > MOST_TOKENS {
            return Err(BookError::Full);
        }
        let mut known = BTreeMap::new();
        for token in &tokens {
            check_name(&token.name)?;
            if let Some(other) = known.insert(&token.sha256, &token.name) {
                return Err(BookError::Same(other.clone(), token.name.clone()));
            }
        }
        Ok(Self(tokens))
    }

    /// All of them, in the order in which they were made.
    #[must_use]
    pub fn tokens(&self) -> &[Token] {
        &self.0
    }

    /// The one that was shown. All are compared whatever the first ones say, so that the time it takes
    /// tells nothing.
    #[must_use]
    pub fn find(&self, shown: &[u8]) -> Option<&Token> {
        let shown = TokenHash::of(shown);
        let mut place = u32::MAX;
        for (number, token) in (0..).zip(&self.0) {
            let same: Choice = token.sha256.same(&shown);
            place.conditional_assign(&number, same);
        }
        self.0.get(usize::try_from(place).ok()?)
    }

    /// Writes a new token into the book. A name may be given again when no token that has it is good any
    /// more.
    ///
    /// # Errors
    /// When there cannot be such a token.
    pub fn add(&mut self, token: Token, now: OffsetDateTime) -> Result<(), BookError> {
        check_name(&token.name)?;
        if token.scopes.is_empty() {
            return Err(BookError::NoScope);
        }
        self.forget(now);
        let good = |other: &Token| other.name == token.name && other.state(now) == TokenState::Good;
        if self.0.iter().any(good) {
            return Err(BookError::Taken(token.name));
        }
        if self.0.len() >= MOST_TOKENS {
            return Err(BookError::Full);
        }
        self.0.push(token);
        Ok(())
    }

    /// Takes back the token of this name. One whose time is over is taken back as well: the clock may be set.
    ///
    /// # Errors
    /// When there is none, or it was taken back before.
    pub fn revoke(&mut self, name: &str, now: OffsetDateTime) -> Result<Token, BookError> {
        let mut revoked = None;
        let named = self.0.iter_mut().filter(|token| token.name == name);
        for token in named.filter(|token| token.revoked_at.is_none()) {
            token.revoked_at = Some(now);
            revoked = Some(token.clone());
        }
        self.forget(now);
        revoked.ok_or_else(|| BookError::Unknown(name.to_owned()))
    }

    /// Nobody needs to know any more why these are refused.
    fn forget(&mut self, now: OffsetDateTime) {
        let long_ago = now.saturating_sub(REMEMBERED);
        self.0
            .retain(|token| token.over_since().is_none_or(|end| end > long_ago));
    }
}

fn check_name(name: &str) -> Result<(), BookError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(fits) {
        Ok(())
    } else {
        Err(BookError::Name(name.to_owned()))
    }
}
