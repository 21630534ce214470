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
    /// A frame is longer than it may be.
    #[error("the guest's agent sent an unusable frame")]
    Frame(#[source] FrameError),
    /// The guest sent a line that is none of the protocol's messages.
    #[error("the guest's agent sent a line that is not a message of the protocol")]
    Malformed,
    /// The guest sent more than it may from one answer to the next.
    #[error("the guest's agent sent more than {limit_bytes} bytes that were no answer")]
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
    /// The image is older than the settings of the site.
    #[error(
        "the image's agent knows nothing of the settings in `site`: build the image again with this server's \
         sources, or leave `site` out"
    )]
    NoSite,
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

impl GuestError {
    /// Whether the channel is as good as before: the guest was merely asked in vain.
    #[must_use]
    pub fn channel_holds(&self) -> bool {
        matches!(
            self,
            Self::Timeout { .. } | Self::Refused { .. } | Self::WrongReply { .. }
        )
    }

    /// Whether the guest broke the rules of the channel, or speaks another language: nothing that it
    /// says can be relied on.
    #[must_use]
    pub fn is_foul(&self) -> bool {
        matches!(
            self,
            Self::Frame(_) | Self::Malformed | Self::Flood { .. } | Self::Version { .. }
        )
    }
}
