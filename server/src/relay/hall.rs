//! Where connections are until the client and the guest talk to each other (`turns.rs`). One that does not
//! get there wants to hold a place, not to talk: it is given none of the lease's, and the oldest one leaves
//! when the hall is full. Who comes next waits until that one has left, so that there are never more than there are
//! places, however late the processors come to those that were told to leave.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// One for each port.
#[derive(Debug)]
pub(super) struct Hall {
    limit: usize,
    places: Arc<Semaphore>,
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
    /// Nobody else has it before this has gone.
    _place: Option<OwnedSemaphorePermit>,
}

impl Hall {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            places: Arc::new(Semaphore::new(limit)),
            waiting: Mutex::default(),
        }
    }

    /// Has the oldest leave if there is no room, and waits for that.
    pub(super) async fn enter(self: &Arc<Self>) -> Wait {
        let mut wait = self.come();
        // Nobody closes it.
        wait._place = Arc::clone(&self.places).acquire_owned().await.ok();
        wait
    }

    fn come(self: &Arc<Self>) -> Wait {
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
            _place: None,
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_comes_waits_until_who_was_told_to_leave_has_left() {
        let hall = Arc::new(Hall::new(2));
        let (first, second) = (hall.enter().await, hall.enter().await);
        let mut third = Box::pin(hall.enter());
        assert!(third.as_mut().now_or_never().is_none());
        assert!(first.leave.is_cancelled());
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        let third = third.await;
        assert!(!second.leave.is_cancelled() && !third.leave.is_cancelled());
        // Who leaves by itself makes room, too.
        drop(third);
        drop(hall.enter().await);
        assert!(!second.leave.is_cancelled());
    }
}
