//! Counts a lease's connections and turns away what is above the limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// One for each lease, shared by all its ports.
#[derive(Debug)]
pub(super) struct Gate {
    limit: usize,
    inside: AtomicUsize,
    told: AtomicBool,
}

/// Counted while it lives.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<Gate>,
}

/// The lease has as many connections as it may.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full {
    /// Whether this is the first one turned away since there was room: the one to be logged.
    pub first: bool,
    /// The limit.
    pub limit: usize,
}

impl Gate {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            inside: AtomicUsize::new(0),
            told: AtomicBool::new(false),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.inside.load(Ordering::Relaxed)
    }

    pub(super) fn enter(self: &Arc<Self>) -> Result<Pass, Full> {
        let room = |count| (count < self.limit).then_some(count + 1);
        match self
            .inside
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
        {
            Ok(_) => {
                self.told.store(false, Ordering::Relaxed);
                Ok(Pass {
                    gate: Arc::clone(self),
                })
            }
            Err(_) => Err(Full {
                first: !self.told.swap(true, Ordering::Relaxed),
                limit: self.limit,
            }),
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.inside.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_only_the_first_refusal_is_to_be_told() {
        let gate = Arc::new(Gate::new(2));
        let full = |first| Some(Full { first, limit: 2 });
        let one = gate.enter().unwrap();
        let _two = gate.enter().unwrap();
        assert_eq!(gate.enter().err(), full(true));
        assert_eq!(gate.enter().err(), full(false));
        drop(one);
        assert_eq!(gate.count(), 1);
        let _three = gate.enter().unwrap();
        assert_eq!(gate.enter().err(), full(true));
    }
}
