//! The HTTP API. Handlers check what is asked, write wishes to the store and wait for what the
//! reconciler makes of them; they never touch the hypervisor.
//!
//! `router.rs` has every route on one page. A request passes `request.rs` (request id, log line,
//! panics, the form of errors), then `auth.rs`, then a handler in the file of its resource.
//! `error.rs` is the only place that turns errors into HTTP.

mod auth;
mod body;
mod catalogue;
mod error;
mod health;
mod leases;
mod order;
mod places;
mod readiness;
mod request;
mod router;
mod serve;
mod token;
mod view;
mod wait;
mod write_deadline;

#[cfg(test)]
mod tests;

pub use catalogue::{Catalogue, CatalogueError, EngineOffer};
pub use readiness::{Check, Readiness};
pub use router::router;
pub use serve::serve;
pub use token::{TokenError, TokenHash, load_or_create_token};

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::LeaseConfig;
use crate::store::Store;

/// What handlers work with.
pub struct ApiState {
    /// Leases and wishes.
    pub store: Arc<Store>,
    /// What can be asked for.
    pub catalogue: Catalogue,
    /// Defaults and limits of leases.
    pub lease: LeaseConfig,
    /// Size up to which a request's body is read, in bytes.
    pub max_body_bytes: usize,
    /// Name or address of the relay, as clients know it.
    pub relay_host: String,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// What the server can do at present.
    pub readiness: Readiness,
    /// The token that callers must have.
    pub token: TokenHash,
    /// Work that outlives its request: wishes of clients that went away. To be waited for before
    /// the store is closed.
    pub background: TaskTracker,
    /// Cancelled when the server stops: requests that wait answer at once.
    pub stopping: CancellationToken,
}
