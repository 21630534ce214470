//! What can go wrong with a guest.

use guest_protocol::{Fault, FrameError, Phase};

/// A guest did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The channel ended: the machine is gone or its agent is.
    #[error("the channel to the guest's agent closed")]
    Closed,
    /// The channel failed.
    #[error("the channel to the guest's agent failed")]
    Channel(#[source] std::io::Error),
    /// The guest sent what is no frame of the protocol, or too much of it.
    #[error("the guest's agent sent an unusable frame")]
    Frame(#[source] FrameError),
    /// The guest sent more than it may while it was asked for one thing.
    #[error("the guest's agent sent more than {limit_bytes} bytes instead of one answer")]
    Flood {
        /// The limit.
        limit_bytes: usize,
    },
    /// No answer in time.
    #[error("the guest's agent did not {doing} within {limit_s} s")]
    Timeout {
        /// What it was asked for.
        doing: &'static str,
        /// The limit in seconds.
        limit_s: u64,
    },
    /// The agent says that it failed.
    #[error("the guest's agent could not {doing}")]
    Refused {
        /// What it was asked for.
        doing: &'static str,
        /// Its words.
        #[source]
        fault: Fault,
    },
    /// The agent answered something else than it was asked for.
    #[error("the guest's agent answered `{doing}` with something else")]
    WrongReply {
        /// What it was asked for.
        doing: &'static str,
    },
    /// Image and server are of different ages.
    #[error(
        "the image's agent speaks version {theirs} of the protocol and this server version {ours}: \
         build the image again with this server's sources"
    )]
    Version {
        /// The agent's.
        theirs: u32,
        /// The server's.
        ours: u32,
    },
    /// The guest is further than it may be.
    #[error("the guest is already {phase:?}")]
    WrongPhase {
        /// How far it is.
        phase: Phase,
    },
    /// A check of the clone failed; it must not be handed out.
    #[error("the machine is not one of its own: {0}")]
    Identity(String),
}
