//! Clocks that tests move by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use time::{Duration, OffsetDateTime};

use super::HostClocks;

/// How long the host had run when a test begins, in seconds.
const RAN_S: i64 = 1000;

/// The clocks of a host that stand still until they are moved; clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Hands {
    start: OffsetDateTime,
    positions: Arc<Positions>,
}

#[derive(Debug, Default)]
struct Positions {
    ran_s: AtomicI64,
    set_s: AtomicI64,
    pauses_s: AtomicI64,
    boots: AtomicI64,
}

impl Hands {
    pub(crate) fn new(start: OffsetDateTime) -> Self {
        Self {
            start,
            positions: Arc::default(),
        }
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, seconds: i64) {
        self.positions.ran_s.fetch_add(seconds, Ordering::Relaxed);
    }

    /// Sets the clock that can be set.
    pub(crate) fn set(&self, by_s: i64) {
        self.positions.set_s.fetch_add(by_s, Ordering::Relaxed);
    }

    /// From now on so much time passes between two readings.
    pub(crate) fn pause_between_readings(&self, seconds: i64) {
        self.positions.pauses_s.store(seconds, Ordering::Relaxed);
    }

    /// The host boots anew; how long it has run goes on, which no test minds.
    pub(crate) fn reboot(&self) {
        self.positions.boots.fetch_add(1, Ordering::Relaxed);
    }
}

impl HostClocks for Hands {
    fn wall(&self) -> OffsetDateTime {
        let Positions {
            ran_s,
            set_s,
            pauses_s,
            ..
        } = &*self.positions;
        let seconds = ran_s.load(Ordering::Relaxed) + set_s.load(Ordering::Relaxed);
        self.pass(pauses_s.load(Ordering::Relaxed));
        self.start + Duration::seconds(seconds)
    }

    fn since_boot(&self) -> std::time::Duration {
        let seconds = RAN_S + self.positions.ran_s.load(Ordering::Relaxed);
        std::time::Duration::from_secs(u64::try_from(seconds).unwrap())
    }

    fn boot_id(&self) -> Option<String> {
        Some(self.positions.boots.load(Ordering::Relaxed).to_string())
    }
}
