//! Tells when a client and its guest have begun to talk to each other: the client said something, the guest
//! answered, and the client went on. In TLS that is the end of the handshake on the client's side, and a
//! client gets there only by reading what the guest has sent.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// Whose turn it was on one connection.
#[derive(Debug, Default)]
pub(super) struct Turns {
    answered: AtomicBool,
    talking: CancellationToken,
}

impl Turns {
    /// Cancelled as soon as the client has gone on after an answer.
    pub(super) fn talking(&self) -> &CancellationToken {
        &self.talking
    }

    /// Something of the guest's was handed to the client.
    pub(super) fn guest_spoke(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// The client said something.
    pub(super) fn client_spoke(&self) {
        if self.answered.load(Ordering::Relaxed) {
            self.talking.cancel();
        }
    }
}
