//! The HTTP API. Handlers check what is asked, write wishes to the store and wait for what the
//! reconciler makes of them; they never touch the hypervisor.
//!
//! `router.rs` has every route on one page. A request passes `request.rs` (request id, log line,
//! panics, the form of errors), then `auth.rs`, which tells whose it is, then a handler in the file of its resource.
//! `error.rs` is the only place that turns errors into HTTP.

mod auth;
mod body;
mod catalogue;
mod create;
mod deadlines;
mod engines;
mod error;
mod events;
mod guest_logs;
mod health;
mod leases;
mod lines;
mod openapi;
mod order;
mod own;
mod places;
mod readiness;
mod request;
mod router;
mod serve;
mod view;
mod wait;
mod write_deadline;

#[cfg(test)]
mod tests;

pub use catalogue::{Catalogue, CatalogueError, EngineOffer, UnknownOffer};
pub use events::MOST_STREAMS;
pub use guest_logs::GuestLogs;
pub use lines::{Lines, expect_clients_back};
pub use readiness::{Check, Readiness};
pub use router::{router, tls_only};
pub use serve::{Door, serve};

use std::collections::BTreeMap;
use std::sync::Arc;

use remote_docker_api::{LeaseId, Queue};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Authenticator, Projects};
use crate::audit::Audit;
use crate::clock::Clock;
use crate::config::{EgressOffer, LeaseConfig};
use crate::metrics::Metrics;
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
    /// The two times.
    pub clock: Arc<dyn Clock>,
    /// What the server can do at present.
    pub readiness: Readiness,
    /// Knows who calls.
    pub authenticator: Authenticator,
    /// What each project may ask for.
    pub projects: Projects,
    /// Who asked for what, and who was refused.
    pub audit: Arc<Audit>,
    /// What machines may be asked to reach.
    pub egress: EgressOffer,
    /// Where leases that wait stand, as the reconciler sees it.
    pub outlook: watch::Receiver<Arc<BTreeMap<LeaseId, Queue>>>,
    /// Where the logs of machines come from.
    pub logs: Arc<dyn GuestLogs>,
    /// What is counted and measured.
    pub metrics: Arc<Metrics>,
    /// Whether `/metrics` is answered to callers without a token.
    pub metrics_public: bool,
    /// The calls that wait for a lease.
    pub lines: Lines,
    /// Places for clients that follow events; [`MOST_STREAMS`] of them.
    pub streams: Arc<Semaphore>,
    /// Work that outlives its request: wishes of clients that went away. To be waited for before
    /// the store is closed.
    pub background: TaskTracker,
    /// Cancelled when the server stops: requests that wait answer at once.
    pub stopping: CancellationToken,
}
