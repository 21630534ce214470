//! What this process knows and a restarted one would not: which actions are in flight, which keys it
//! holds, what is to be tried again when. The reconciler's loop is its only writer. How the templates
//! stand is in `upkeep.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use remote_docker_api::{Egress, LeaseId, StepTiming};
use time::OffsetDateTime;

use super::watch::{Monitor, Use};
use crate::guest::Guests;
use crate::ids::VmId;
use crate::lease::{Activity, PoolKey};
use crate::pki::VmCa;

/// The longest time in seconds that a VM is left alone that could not be destroyed.
const LONGEST_REST_S: u64 = 60;

/// The longest time in seconds that a key whose VMs fail is left alone.
const LONGEST_HOLD_S: u64 = 60;

/// How many failures in a row are told apart.
const FAILURES_KEPT: usize = 16;

#[derive(Default)]
pub(super) struct Memory {
    pub(super) busy_vms: BTreeSet<VmId>,
    /// VMs that were busy in the last round and are so no more, and those whose watcher has ended by a fault.
    pub(super) idle_again: BTreeSet<VmId>,
    /// VMs whose guests have told of their use since the last round.
    pub(super) stirred: BTreeSet<VmId>,
    pub(super) started: BTreeMap<VmId, Started>,
    pub(super) keyed: BTreeMap<VmId, Keyed>,
    /// What the wires of VMs that nobody holds yet were told for the lease that is to get them.
    pub(super) admitted: BTreeMap<VmId, Admitted>,
    pub(super) monitors: BTreeMap<VmId, Monitor>,
    /// The guests that can be asked: those with a monitor.
    pub(super) guests: Guests,
    /// What the guests said last about their use. A guest is taken to have been in use when it first
    /// said anything, so the silence while no server ran does not count.
    pub(super) activity: BTreeMap<VmId, Activity>,
    /// Guests that do not answer, or not as they should.
    pub(super) unwell: BTreeSet<VmId>,
    /// VMs that could not be destroyed.
    pub(super) stuck: BTreeMap<VmId, Stuck>,
    failures: BTreeMap<PoolKey, Failures>,
}

/// A VM whose processors run.
#[derive(Debug, Clone)]
pub(super) struct Started {
    pub(super) cloned: bool,
    pub(super) began_at: OffsetDateTime,
    pub(super) steps: Vec<StepTiming>,
}

/// What a VM's wire was told.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) egress: Egress,
    /// The certificate that was made meanwhile, and for which lease.
    pub(super) signed: Option<(LeaseId, String)>,
    /// How long both took.
    pub(super) took: Duration,
}

/// A VM that can be handed to somebody.
pub(super) struct Keyed {
    /// Shared with the step that signs with it.
    pub(super) ca: Arc<VmCa>,
    pub(super) ssh_host_key: Option<String>,
    pub(super) began_at: OffsetDateTime,
    pub(super) steps: Vec<StepTiming>,
}

/// How often a VM could not be destroyed, and until when it is left alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stuck {
    pub(super) tries: u32,
    pub(super) rests_until: OffsetDateTime,
}

#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    /// The newest of them.
    moments: VecDeque<OffsetDateTime>,
    /// What the last one said.
    last_words: String,
    /// Whether the last one had become ready and could not be told what it may reach. Another that becomes
    /// ready says nothing about that.
    of_admission: bool,
    held_until: Option<OffsetDateTime>,
}

impl Memory {
    /// Until when nothing new is begun for which key.
    pub(super) fn held_back(&self) -> BTreeMap<PoolKey, OffsetDateTime> {
        self.failures
            .iter()
            .filter_map(|(key, failures)| Some((key.clone(), failures.held_until?)))
            .collect()
    }

    /// When the starts failed that failed in a row.
    pub(super) fn failures(&self) -> BTreeMap<PoolKey, Vec<OffsetDateTime>> {
        self.failures
            .iter()
            .map(|(key, failures)| (key.clone(), failures.moments.iter().copied().collect()))
            .collect()
    }

    /// What the last machine of this key said that failed to become ready.
    pub(super) fn last_words(&self, key: &PoolKey) -> Option<&str> {
        let failures = self.failures.get(key)?;
        Some(&failures.last_words)
    }

    /// Notes that a machine was told what it may reach: nothing more can fail.
    pub(super) fn succeeded(&mut self, key: &PoolKey) {
        self.failures.remove(key);
    }

    /// Notes that a machine became ready.
    pub(super) fn became_ready(&mut self, key: &PoolKey) {
        self.failures
            .retain(|it, failures| it != key || failures.of_admission);
    }

    /// Notes that a machine that was ready could not be told what it may reach, and holds its key back.
    pub(super) fn admission_failed(
        &mut self,
        key: &PoolKey,
        last_words: String,
        now: OffsetDateTime,
    ) {
        self.failed(key, last_words, now);
        if let Some(failures) = self.failures.get_mut(key) {
            failures.of_admission = true;
        }
    }

    /// Notes that a start failed and holds its key back: 1 s, then twice as long each time.
    pub(super) fn failed(&mut self, key: &PoolKey, last_words: String, now: OffsetDateTime) {
        let failures = self.failures.entry(key.clone()).or_default();
        failures.last_words = last_words;
        failures.of_admission = false;
        failures.moments.push_back(now);
        if failures.moments.len() > FAILURES_KEPT {
            failures.moments.pop_front();
        }
        let seconds = 1_u64
            .checked_shl(failures.in_a_row)
            .unwrap_or(LONGEST_HOLD_S);
        failures.in_a_row = failures.in_a_row.saturating_add(1);
        failures.held_until = Some(now + Duration::from_secs(seconds.min(LONGEST_HOLD_S)));
    }

    /// Notes that a VM could not be destroyed and leaves it alone: 2 s, then twice as long each time.
    pub(super) fn not_destroyed(&mut self, vm: VmId, now: OffsetDateTime) -> Stuck {
        let tries = self.stuck.get(&vm).map_or(0, |stuck| stuck.tries);
        let seconds = 1_u64
            .checked_shl(tries.saturating_add(1))
            .unwrap_or(LONGEST_REST_S);
        let stuck = Stuck {
            tries: tries.saturating_add(1),
            rests_until: now + Duration::from_secs(seconds.min(LONGEST_REST_S)),
        };
        self.stuck.insert(vm, stuck);
        stuck
    }

    /// What the VM's wire was told; `None` when it was told nothing or something else than this.
    pub(super) fn admitted(&self, vm: VmId, egress: Egress) -> Option<&Admitted> {
        let admitted = self.admitted.get(&vm)?;
        (admitted.egress == egress).then_some(admitted)
    }

    /// VMs that could not be destroyed and are left alone now.
    pub(super) fn resting(&self, now: OffsetDateTime) -> impl Iterator<Item = VmId> {
        let rests = move |stuck: &Stuck| now < stuck.rests_until;
        let stuck = self.stuck.iter().filter(move |(_, stuck)| rests(stuck));
        stuck.map(|(vm, _)| *vm)
    }

    /// When each of these is tried again.
    pub(super) fn next_try(&self) -> impl Iterator<Item = OffsetDateTime> {
        self.stuck.values().map(|stuck| stuck.rests_until)
    }

    /// Takes in, at `now`, what a guest said about its use when it was asked at `asked_at`. How long its
    /// answer was on its way is not known, and neither is what it did meanwhile: that counts as use as
    /// far as it says so, and never as idleness.
    pub(super) fn heard(
        &mut self,
        vm: VmId,
        what: Use,
        asked_at: OffsetDateTime,
        now: OffsetDateTime,
    ) {
        let known = self.activity.get(&vm).map_or(now, |known| known.busy_at);
        let busy_at = match what {
            Use::Busy => now,
            Use::NeverSoFar => known,
            Use::IdleFor(idle) => known.max(now.checked_sub(idle).unwrap_or(known)),
        };
        let activity = Activity {
            // After a clock that was set back, nothing lies in the future.
            busy_at: busy_at.min(now),
            heard_at: asked_at.min(now),
        };
        self.activity.insert(vm, activity);
        self.stirred.insert(vm);
    }

    /// Forgets a VM that will not be handed to anybody any more.
    pub(super) fn forget(&mut self, vm: VmId) {
        self.started.remove(&vm);
        self.keyed.remove(&vm);
        self.admitted.remove(&vm);
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
                memory.failed(&key(), String::new(), now);
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
            memory.heard(vm, what, now, now);
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
        // An answer that was long on its way says nothing about that time.
        memory.heard(vm, Use::NeverSoFar, at(-3400), at(-3000));
        assert_eq!(memory.activity[&vm].heard_at, at(-3400));
        memory.heard(vm, idle(10), at(-2900), at(-2800));
        assert_eq!(memory.activity[&vm].busy_at, at(-2810));
        memory.unwell.insert(vm);
        memory.forget(vm);
        assert!(memory.activity.is_empty() && memory.unwell.is_empty());
    }

    #[test]
    fn a_vm_that_cannot_be_destroyed_is_left_alone_longer_each_time_up_to_a_minute() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let vm = VmId::from_bits(1);
        let mut memory = Memory::default();
        let pauses: Vec<i64> = (0..80)
            .map(|_| (memory.not_destroyed(vm, now).rests_until - now).whole_seconds())
            .collect();
        assert_eq!(pauses[..7], [2, 4, 8, 16, 32, 60, 60]);
        assert!(pauses[7..].iter().all(|&seconds| seconds == 60));
        let end = memory.stuck[&vm].rests_until;
        assert_eq!(memory.resting(now).collect::<Vec<_>>(), [vm]);
        assert_eq!(memory.resting(end).count(), 0);
    }
}
