//! What the server and its clients say to each other: the bodies of the HTTP API, the error codes
//! and the ids. No logic lives here, so that both sides and the tests can share it.
//!
//! Times are RFC 3339 in UTC; durations carry their unit in the name of the field.

pub mod egress;
pub mod engine;
pub mod event;
pub mod id;
pub mod lease;
pub mod problem;
#[cfg(feature = "schema")]
mod schema;
pub mod text;

pub use egress::Egress;
pub use engine::{Engine, EngineList};
pub use event::{EventKind, LeaseEvent, LeaseLogs};
pub use id::{LeaseId, ParseIdError, short_code};
pub use lease::{
    CreateLease, DockerEndpoint, Doing, EndReason, ExtendLease, KeepLease, Lease, LeaseList,
    LeaseState, Queue, Secret, SshEndpoint, StepTiming,
};
pub use problem::{ErrorCode, PROBLEM_CONTENT_TYPE, Problem};
pub use text::is_dangerous;
