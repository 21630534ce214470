//! What a walk leaves: how much of everything there was, and the last steps.

use std::collections::{BTreeMap, VecDeque};

use remote_docker_api::EndReason;
use time::OffsetDateTime;

use super::STEPS;
use super::step::Step;

/// How many steps are told when something is wrong.
const TOLD: usize = 60;

fn word(reason: EndReason) -> String {
    format!("{reason:?}")
}

/// How much of everything there was.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) asked: u32,
    pub(super) active: u32,
    ends: BTreeMap<String, u32>,
    pub(super) crashes: u32,
    pub(super) stops: u32,
    pub(super) rests: u32,
    pub(super) looks: u32,
    /// Looks at which it could be told whether anybody was passed over.
    pub(super) fair_looks: u32,
}

impl Tally {
    /// A lease ended like this.
    pub(super) fn ends(&mut self, reason: EndReason) {
        *self.ends.entry(word(reason)).or_default() += 1;
    }

    /// A walk that nothing happens on finds nothing.
    pub(super) fn assert_that_much_happened(&self) {
        println!("{self:?}");
        let per_thousand = |count: u32| count as usize * 1000 / STEPS;
        assert!(per_thousand(self.active) >= 10, "{self:?}");
        assert!(per_thousand(self.crashes) >= 4, "{self:?}");
        assert!(self.fair_looks > self.looks / 2, "{self:?}");
        for end in [
            EndReason::Released,
            EndReason::Expired,
            EndReason::VmLost,
            EndReason::ClientGone,
            EndReason::WaitTimeout,
            EndReason::KeepaliveMissed,
            EndReason::Idle,
        ] {
            assert!(self.ends.contains_key(&word(end)), "no {end:?}: {self:?}");
        }
    }
}

/// The last steps, which are told when the walk fails.
pub(super) struct Trail {
    seed: u64,
    taken: usize,
    last: VecDeque<(OffsetDateTime, Step)>,
}

impl Trail {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            taken: 0,
            last: VecDeque::new(),
        }
    }

    pub(super) fn note(&mut self, now: OffsetDateTime, step: Step) {
        self.taken += 1;
        self.last.push_back((now, step));
        if self.last.len() > TOLD {
            self.last.pop_front();
        }
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        eprintln!("seed {}, step {}; the last steps:", self.seed, self.taken);
        for (at, step) in &self.last {
            eprintln!("  {at} {step:?}");
        }
    }
}
