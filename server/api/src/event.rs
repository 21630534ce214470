//! What happens to a lease, as it is told while it happens.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// One thing that happened to a lease: the data of one server-sent event of
/// `GET /v1/leases/{id}/events`, whose `id` is [`Self::seq`] and whose `event` is the kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LeaseEvent {
    /// Counts the events of this lease from 1; a client that comes back names the last it has seen
    /// in the header `Last-Event-ID`.
    pub seq: u64,
    /// When it happened.
    #[serde(with = "time::serde::rfc3339")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Moment"))]
    pub at: OffsetDateTime,
    /// What happened.
    pub kind: EventKind,
    /// More about it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What happened to a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// It was asked for and waits.
    Queued,
    /// A machine is being cloned for it, or booted where there is no template.
    Cloning,
    /// That machine runs and gets its identity.
    Activating,
    /// It has its machine.
    Ready,
    /// It ends soon unless something is done.
    Warning,
    /// It lasts longer than before.
    Extended,
    /// Its holder has gone and wants its machine kept for a while.
    Kept,
    /// The disk of its machine is nearly full.
    DiskLow,
    /// The disk of its machine is full.
    DiskFull,
    /// A process on its machine was ended because there was no memory left for it.
    OutOfMemory,
    /// It ends; its machine is being destroyed.
    Ending,
    /// Nothing of it is left on the host. The last event of every lease.
    Ended,
    /// Something that this client does not know.
    #[serde(other)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}

impl EventKind {
    /// Every kind that a server of this version sends.
    pub const ALL: [Self; 12] = [
        Self::Queued,
        Self::Cloning,
        Self::Activating,
        Self::Ready,
        Self::Warning,
        Self::Extended,
        Self::Kept,
        Self::DiskLow,
        Self::DiskFull,
        Self::OutOfMemory,
        Self::Ending,
        Self::Ended,
    ];

    /// The kind as it stands on the wire, such as `ready`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Cloning => "cloning",
            Self::Activating => "activating",
            Self::Ready => "ready",
            Self::Warning => "warning",
            Self::Extended => "extended",
            Self::Kept => "kept",
            Self::DiskLow => "disk_low",
            Self::DiskFull => "disk_full",
            Self::OutOfMemory => "out_of_memory",
            Self::Ending => "ending",
            Self::Ended => "ended",
            Self::Unknown => "unknown",
        }
    }
}

/// Answer of `GET /v1/leases/{id}/logs`: what the machine of an active lease said last. Each part is
/// the end of a longer text and may begin in the middle of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LeaseLogs {
    /// The guest's console: its kernel and its first process.
    pub console: String,
    /// The Docker daemon and containerd.
    pub docker: String,
}
