//! Reasons as the words that stand in the tables. Written out one by one: renaming a variant in the
//! code must not change what is on disk.

use remote_docker_api::{Egress, EndReason, EventKind};

use crate::lease::DestroyReason;

/// A value that is kept as a word.
pub(super) trait Word: Sized {
    /// The word of this value.
    fn word(&self) -> &'static str;
    /// The value of this word.
    fn from_word(word: &str) -> Option<Self>;
}

/// Writes both directions from one list. The first is checked for completeness by the compiler.
macro_rules! words {
    ($type:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl Word for $type {
            fn word(&self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }

            fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

words!(EndReason {
    Released = "released",
    Expired = "expired",
    VmLost = "vm_lost",
    DiskFull = "disk_full",
    ClientGone = "client_gone",
    WaitTimeout = "wait_timeout",
    StartFailed = "start_failed",
    KeepaliveMissed = "keepalive_missed",
    Idle = "idle",
    Drained = "drained",
});

/// The kinds are the same words on the wire and in the tables.
impl Word for EventKind {
    fn word(&self) -> &'static str {
        self.as_str()
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// The policies too.
impl Word for Egress {
    fn word(&self) -> &'static str {
        self.as_str()
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == word)
    }
}

words!(DestroyReason {
    LeaseEnded = "lease_ended",
    StartFailed = "start_failed",
    ActivationFailed = "activation_failed",
    Stuck = "stuck",
    Interrupted = "interrupted",
    Lost = "lost",
    Surplus = "surplus",
    Aged = "aged",
    Unwell = "unwell",
});
