//! Where connections are until the client and the guest talk to each other (`turns.rs`). One that does not
//! get there wants to hold a place, not to talk: it is given none of the lease's, and the oldest one leaves
//! when the hall is full.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// One for each port.
#[derive(Debug)]
pub(super) struct Hall {
    limit: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// By age, the oldest first.
    clients: BTreeMap<u64, CancellationToken>,
}

/// In the hall while it lives.
#[derive(Debug)]
pub(super) struct Wait {
    hall: Arc<Hall>,
    number: u64,
    /// Cancelled when it has to leave.
    pub leave: CancellationToken,
}

impl Hall {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            waiting: Mutex::default(),
        }
    }

    pub(super) fn enter(self: &Arc<Self>) -> Wait {
        let mut waiting = self.waiting();
        if waiting.clients.len() >= self.limit
            && let Some((_, oldest)) = waiting.clients.pop_first()
        {
            oldest.cancel();
        }
        let (number, leave) = (waiting.next, CancellationToken::new());
        waiting.next += 1;
        waiting.clients.insert(number, leave.clone());
        let hall = Arc::clone(self);
        Wait {
            hall,
            number,
            leave,
        }
    }

    /// No code panics while it holds the lock.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.hall.waiting().clients.remove(&self.number);
    }
}
