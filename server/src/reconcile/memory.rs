//! What this process knows and a restarted one would not: which actions are in flight, which keys it
//! holds, how the templates stand. The reconciler's loop is its only writer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use remote_docker_api::StepTiming;
use time::OffsetDateTime;

use super::watch::{Monitor, Use};
use crate::guest::Guests;
use crate::hypervisor::TemplateFiles;
use crate::ids::VmId;
use crate::lease::{Activity, PoolKey, TemplateState};
use crate::pki::VmCa;

/// After so many clones in a row that did not become machines, the template is taken to be bad and
/// VMs boot cold.
const CLONE_FAILURES_ALLOWED: u32 = 3;

/// The longest time in seconds that a key whose VMs fail is left alone.
const LONGEST_HOLD_S: u64 = 60;

#[derive(Default)]
pub(super) struct Memory {
    pub(super) busy_vms: BTreeSet<VmId>,
    pub(super) started: BTreeMap<VmId, Started>,
    pub(super) keyed: BTreeMap<VmId, Keyed>,
    pub(super) monitors: BTreeMap<VmId, Monitor>,
    /// The guests that can be asked: those with a monitor.
    pub(super) guests: Guests,
    /// What the guests said last about their use. A guest is taken to have been in use when it first
    /// said anything, so the silence while no server ran does not count.
    pub(super) activity: BTreeMap<VmId, Activity>,
    /// Guests that do not answer, or not as they should.
    pub(super) unwell: BTreeSet<VmId>,
    templates: BTreeMap<PoolKey, Template>,
    failures: BTreeMap<PoolKey, Failures>,
}

/// A VM whose processors run.
#[derive(Debug, Clone)]
pub(super) struct Started {
    pub(super) cloned: bool,
    pub(super) began_at: OffsetDateTime,
    pub(super) steps: Vec<StepTiming>,
}

/// A VM that can be handed to somebody.
pub(super) struct Keyed {
    pub(super) ca: VmCa,
    pub(super) began_at: OffsetDateTime,
    pub(super) steps: Vec<StepTiming>,
}

/// How it stands with the template of one key.
#[derive(Debug, Clone)]
pub(super) enum Template {
    Missing,
    Building,
    Ready(TemplateFiles),
    Unavailable,
}

#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    clones_in_a_row: u32,
    held_until: Option<OffsetDateTime>,
}

impl Memory {
    pub(super) fn set_template(&mut self, key: PoolKey, template: Template) {
        self.templates.insert(key, template);
    }

    pub(super) fn template(&self, key: &PoolKey) -> Option<&Template> {
        self.templates.get(key)
    }

    pub(super) fn template_states(&self) -> BTreeMap<PoolKey, TemplateState> {
        let state = |template: &Template| match template {
            Template::Missing => TemplateState::Missing,
            Template::Building => TemplateState::Building,
            Template::Ready(_) => TemplateState::Ready,
            Template::Unavailable => TemplateState::Unavailable,
        };
        self.templates
            .iter()
            .map(|(key, template)| (key.clone(), state(template)))
            .collect()
    }

    /// Until when nothing new is begun for which key.
    pub(super) fn held_back(&self) -> BTreeMap<PoolKey, OffsetDateTime> {
        self.failures
            .iter()
            .filter_map(|(key, failures)| Some((key.clone(), failures.held_until?)))
            .collect()
    }

    pub(super) fn succeeded(&mut self, key: &PoolKey) {
        self.failures.remove(key);
    }

    /// Notes that a start failed and holds its key back: 1 s, then twice as long each time.
    pub(super) fn failed(&mut self, key: &PoolKey, now: OffsetDateTime) {
        let failures = self.failures.entry(key.clone()).or_default();
        let seconds = 1_u64
            .checked_shl(failures.in_a_row)
            .unwrap_or(LONGEST_HOLD_S);
        failures.in_a_row = failures.in_a_row.saturating_add(1);
        failures.held_until = Some(now + Duration::from_secs(seconds.min(LONGEST_HOLD_S)));
    }

    /// Notes that a clone failed; `true` when its template is to be given up.
    pub(super) fn clone_failed(&mut self, key: &PoolKey, now: OffsetDateTime) -> bool {
        self.failed(key, now);
        let failures = self.failures.entry(key.clone()).or_default();
        failures.clones_in_a_row += 1;
        let given_up = failures.clones_in_a_row >= CLONE_FAILURES_ALLOWED;
        if given_up {
            self.set_template(key.clone(), Template::Unavailable);
        }
        given_up
    }

    /// Takes in what a guest said about its use at `now`.
    pub(super) fn heard(&mut self, vm: VmId, what: Use, now: OffsetDateTime) {
        let known = self.activity.get(&vm).map_or(now, |known| known.busy_at);
        let busy_at = match what {
            Use::Busy => now,
            Use::NeverSoFar => known,
            Use::IdleFor(idle) => known.max(now.checked_sub(idle).unwrap_or(known)),
        };
        let activity = Activity {
            // After a clock that was set back, nothing lies in the future.
            busy_at: busy_at.min(now),
            heard_at: now,
        };
        self.activity.insert(vm, activity);
    }

    /// Forgets a VM that will not be handed to anybody any more.
    pub(super) fn forget(&mut self, vm: VmId) {
        self.started.remove(&vm);
        self.keyed.remove(&vm);
        self.monitors.remove(&vm);
        self.guests.leave(vm);
        self.activity.remove(&vm);
        self.unwell.remove(&vm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PoolKey {
        PoolKey {
            engine: "26".into(),
            size: "small".into(),
        }
    }

    #[test]
    fn a_failing_key_is_held_back_longer_each_time_up_to_a_minute() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut memory = Memory::default();
        let held: Vec<i64> = (0..80)
            .map(|_| {
                memory.failed(&key(), now);
                (memory.held_back()[&key()] - now).whole_seconds()
            })
            .collect();
        assert_eq!(held[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(held[8..].iter().all(|&seconds| seconds == 60));
        memory.succeeded(&key());
        assert!(memory.held_back().is_empty());
    }

    #[test]
    fn what_a_guest_says_moves_its_last_use_forward_only() {
        let (start, vm) = (OffsetDateTime::UNIX_EPOCH, VmId::from_bits(1));
        let at = |s: i64| start + time::Duration::seconds(s);
        let idle = |s: i64| Use::IdleFor(time::Duration::seconds(s));
        let mut memory = Memory::default();
        let mut busy_at = |what, now| {
            memory.heard(vm, what, now);
            let activity = memory.activity[&vm];
            assert_eq!(activity.heard_at, now);
            activity.busy_at
        };
        // Whatever it says, it has not been idle for longer than somebody listens.
        assert_eq!(busy_at(idle(3600), at(100)), at(100));
        assert_eq!(busy_at(Use::NeverSoFar, at(110)), at(100));
        assert_eq!(busy_at(idle(5), at(120)), at(115));
        assert_eq!(busy_at(Use::Busy, at(130)), at(130));
        // A container that ran kept it busy, although no byte moved.
        assert_eq!(busy_at(idle(60), at(140)), at(130));
        assert_eq!(busy_at(idle(i64::MAX), at(150)), at(130));
        // The host's clock was set back by an hour.
        assert_eq!(busy_at(idle(60), at(-3500)), at(-3500));
        memory.unwell.insert(vm);
        memory.forget(vm);
        assert!(memory.activity.is_empty() && memory.unwell.is_empty());
    }

    #[test]
    fn a_template_is_given_up_after_three_bad_clones_in_a_row() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut memory = Memory::default();
        assert!(!memory.clone_failed(&key(), now));
        assert!(!memory.clone_failed(&key(), now));
        memory.succeeded(&key());
        assert!(!memory.clone_failed(&key(), now));
        assert!(!memory.clone_failed(&key(), now));
        assert!(memory.clone_failed(&key(), now));
        assert!(matches!(
            memory.template(&key()),
            Some(Template::Unavailable)
        ));
    }
}
