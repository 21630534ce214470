//! Tokens from their making to their end.

mod book;
mod command;
mod operator;
mod tokens;

use time::OffsetDateTime;
use time::macros::datetime;

use super::book::Token;
use super::{Scope, Scopes, TokenHash};

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

fn token(name: &str, secret: &str) -> Token {
    Token {
        name: name.to_owned(),
        project: "default".to_owned(),
        scopes: Scopes::of([Scope::Lease]),
        sha256: TokenHash::of(secret.as_bytes()),
        ends_with: "abcd".to_owned(),
        created_at: NOW,
        expires_at: None,
        revoked_at: None,
    }
}
