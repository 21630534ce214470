//! When the Docker daemon is asked whether it answers.
//!
//! Each answer wakes it up, which takes 60 ms of processor time under software emulation, and a host may have many
//! machines that do nothing. So one that has answered, and of which nothing has been seen or heard since, is taken
//! at its word for a while.

use std::time::Duration;

/// How long an answer holds while nothing happens.
const HOLDS: Duration = Duration::from_secs(60);

/// What is seen of the daemon without a word to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Since the guest booted.
    pub(crate) now: Duration,
    /// How long ago a client's last byte moved; `None` if none ever did.
    pub(crate) idle: Option<Duration>,
    /// Requests that wait for an answer.
    pub(crate) pending: u32,
    /// How often it has ended.
    pub(crate) restarts: u32,
}

/// The last good answer.
#[derive(Debug, Default)]
pub(crate) struct Liveness(Option<Seen>);

impl Liveness {
    /// Whether the daemon has to be asked.
    pub(crate) fn must_ask(&self, seen: Seen) -> bool {
        let Some(answer) = self.0 else { return true };
        let since = seen.now.saturating_sub(answer.now);
        since >= HOLDS
            || seen.pending > 0
            || seen.restarts != answer.restarts
            || seen.idle.is_some_and(|idle| idle <= since)
    }

    /// It was asked when `seen` was seen.
    pub(crate) fn asked(&mut self, seen: Seen, answered: bool) {
        self.0 = answered.then_some(seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(now_s: u64) -> Seen {
        Seen {
            now: Duration::from_secs(now_s),
            idle: None,
            pending: 0,
            restarts: 0,
        }
    }

    #[test]
    fn an_answer_holds_for_a_while_if_nothing_happens() {
        let mut liveness = Liveness::default();
        assert!(liveness.must_ask(at(10)));
        liveness.asked(at(10), true);
        assert!(!liveness.must_ask(at(10)));
        assert!(!liveness.must_ask(at(69)));
        assert!(liveness.must_ask(at(70)));
        // A clock that went back, which this one does not.
        assert!(!liveness.must_ask(at(9)));
    }

    #[test]
    fn no_answer_does_not_hold() {
        let mut liveness = Liveness::default();
        liveness.asked(at(10), true);
        liveness.asked(at(70), false);
        assert!(liveness.must_ask(at(71)));
    }

    #[test]
    fn whatever_happens_has_it_asked_again() {
        let mut liveness = Liveness::default();
        let before = Seen {
            idle: Some(Duration::from_secs(3)),
            ..at(10)
        };
        liveness.asked(before, true);
        let idle = |idle_s| Seen {
            idle: Some(Duration::from_secs(idle_s)),
            ..at(20)
        };
        assert!(!liveness.must_ask(idle(13)));
        // At the same moment, for all that can be told.
        assert!(liveness.must_ask(idle(10)));
        assert!(liveness.must_ask(idle(0)));
        let waits = Seen {
            pending: 1,
            ..idle(13)
        };
        assert!(liveness.must_ask(waits));
        let fell = Seen {
            restarts: 1,
            ..idle(13)
        };
        assert!(liveness.must_ask(fell));
    }
}
