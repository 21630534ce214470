//! Who may call, and what: credentials are looked up here, and whoever has one is a [`Caller`].
//!
//! [`Authenticator::caller`] is the one seam: a further kind of credential is one more field of the
//! [`Authenticator`] and one more line there. Everything behind it (handlers, quotas, the audit log) knows
//! callers only.
//!
//! There are two kinds of tokens. The operator's own is plain text in a file that only root reads
//! (`operator.rs`): the way in on the server's host. All others are in a book (`book.rs`) that holds no
//! secret, on disk (`file.rs`), written by `remote-dockerd token` (`command.rs`) and followed by the server
//! (`tokens.rs`).
//!
//! Two more kinds need not be stored anywhere: tokens that a CI system signs for a job (the room `oidc`), and the credential of one
//! lease, which its holder is given with it (`lease_token.rs`).

mod authenticator;
mod book;
mod caller;
pub mod command;
mod file;
mod lease_token;
pub mod operator;
mod secret;
mod terms;
mod tokens;

#[cfg(test)]
mod tests;

pub use authenticator::{Authenticator, Refusal};
pub use book::{Book, BookError, Token, TokenState};
pub use caller::{Caller, Scope, Scopes, UnknownScope};
pub use file::FileError;
pub use lease_token::LeaseTokens;
pub use secret::TokenHash;
pub use terms::{Projects, Terms};
pub use tokens::Tokens;
