//! The deadlines of leases and the order of their queue, written as plainly as possible, for the
//! world to compare the planner with; and single rules.

use remote_docker_api::{Doing, EndReason};

use super::rules::{active, running, scene, vm, waiting};
use super::world::World;
use super::*;

impl World {
    /// Panics when a lease is ended for a reason that is none.
    pub(super) fn is_due(&self, lease: &LeaseRow, reason: EndReason) {
        if lease.end_wish == Some(reason) {
            return;
        }
        match (&lease.phase, reason) {
            (LeasePhase::Waiting, EndReason::WaitTimeout) => {
                assert!(self.now >= lease.wait_until, "{lease:?}");
            }
            (LeasePhase::Waiting, EndReason::StartFailed) => assert!(self.starts_failed(lease)),
            (LeasePhase::Active(grant), EndReason::Expired) => {
                assert!(self.now >= grant.expires_at, "{lease:?}");
            }
            (LeasePhase::Active(grant), EndReason::KeepaliveMissed) => {
                assert!(!self.is_kept(lease, grant), "{lease:?}");
            }
            (LeasePhase::Active(grant), EndReason::Idle) => {
                assert!(self.is_idle(lease, grant), "{lease:?}");
            }
            (LeasePhase::Active(grant), EndReason::VmLost) => {
                assert_ne!(self.host.get(&grant.vm), Some(&true), "{lease:?}");
            }
            other => panic!("no reason: {other:?}"),
        }
    }

    pub(super) fn lasts(&self, lease: &LeaseRow, grant: &Grant) -> bool {
        self.now < grant.expires_at && self.is_kept(lease, grant) && !self.is_idle(lease, grant)
    }

    /// 10. Silence while no server listened does not count.
    fn is_kept(&self, lease: &LeaseRow, grant: &Grant) -> bool {
        let Some(keepalive_s) = lease.keepalive_s else {
            return true;
        };
        let silent_since = std::cmp::max(grant.heartbeat_at, self.listening_since);
        self.now - silent_since < Duration::seconds(keepalive_s.into())
    }

    fn is_idle(&self, lease: &LeaseRow, grant: &Grant) -> bool {
        let (Some(idle_s), Some(report)) = (lease.idle_s, self.activity.get(&grant.vm)) else {
            return false;
        };
        let idle_since = std::cmp::max(report.busy_at, grant.ready_at);
        report.heard_at - idle_since >= Duration::seconds(idle_s.into())
    }

    pub(super) fn starts_failed(&self, lease: &LeaseRow) -> bool {
        let failures = self.failures.get(&lease.key);
        let seen = failures
            .into_iter()
            .flatten()
            .filter(|failure| **failure >= lease.created_at);
        seen.count() >= self.policy.start_attempts
    }

    /// How many leases of its project that last were asked for before this one.
    fn older_of_its_project(&self, lease: &LeaseRow) -> usize {
        let asked = |lease: &LeaseRow| (lease.created_at, lease.id);
        let older = self.leases.values().filter(|other| {
            let lasts = other.end_wish.is_none()
                && match &other.phase {
                    LeasePhase::Waiting => {
                        self.now < other.wait_until && !self.starts_failed(other)
                    }
                    LeasePhase::Active(grant) => {
                        self.host.get(&grant.vm) == Some(&true) && self.lasts(other, grant)
                    }
                    _ => false,
                };
            lasts && other.project == lease.project && asked(other) < asked(lease)
        });
        older.count()
    }

    /// The first of each project, then the second of each, and so on.
    pub(super) fn in_turn(&self, waiting: &mut [&LeaseRow]) {
        waiting.sort_by_key(|lease| (self.older_of_its_project(lease), lease.created_at, lease.id));
    }
}

fn keeping(lease: LeaseRow, keepalive_s: u32) -> LeaseRow {
    LeaseRow {
        keepalive_s: Some(keepalive_s),
        ..lease
    }
}

fn ends(now: i64, snapshot: &Snapshot) -> Vec<EndReason> {
    plan(at(now), snapshot, &policy())
        .into_iter()
        .filter_map(|action| match action {
            Action::EndLease { reason, .. } => Some(reason),
            _ => None,
        })
        .collect()
}

fn held() -> (VmRow, LeaseRow) {
    let mut lease = active(7, VmId::from_bits(1));
    if let LeasePhase::Active(grant) = &mut lease.phase {
        grant.warned_of = None;
    }
    let phase = VmPhase::Assigned { lease: lease.id };
    (vm(1, "one", phase), lease)
}

#[test]
fn a_lease_without_heartbeats_ends_when_one_is_due_and_not_before() {
    let (vm, lease) = held();
    let mut snapshot = scene(vec![vm], vec![keeping(lease, 30)]);
    snapshot.observed = running(&[1]);
    assert_eq!(ends(29, &snapshot), []);
    assert_eq!(ends(30, &snapshot), [EndReason::KeepaliveMissed]);
    assert_eq!(next_wakeup(at(1), &snapshot, &policy()), Some(at(30)));
}

#[test]
fn silence_while_no_server_listened_does_not_count() {
    let (vm, lease) = held();
    let mut snapshot = scene(vec![vm], vec![keeping(lease, 30)]);
    snapshot.listening_since = Some(at(60));
    assert_eq!(ends(89, &snapshot), []);
    assert_eq!(ends(90, &snapshot), [EndReason::KeepaliveMissed]);
}

#[test]
fn a_lease_is_idle_when_its_guest_said_so_for_long_enough() {
    let (vm, lease) = held();
    let idle = LeaseRow {
        idle_s: Some(20),
        ..lease
    };
    let mut snapshot = scene(vec![vm], vec![idle]);
    // A guest that says nothing may be doing anything.
    assert_eq!(ends(99, &snapshot), []);
    let report = |busy, heard| Activity {
        busy_at: at(busy),
        heard_at: at(heard),
    };
    let id = VmId::from_bits(1);
    for (busy, heard, expected) in [
        // Idle since before it had its lease, which it has since 0.
        (-50, 19, &[][..]),
        (-50, 20, &[EndReason::Idle]),
        (10, 29, &[]),
        (10, 30, &[EndReason::Idle]),
    ] {
        snapshot.activity.insert(id, report(busy, heard));
        assert_eq!(ends(90, &snapshot), expected, "{busy} {heard}");
    }
}

#[test]
fn the_holder_is_warned_once_of_each_end() {
    let (vm, lease) = held();
    let warnings = |now, snapshot: &Snapshot| {
        let actions = plan(at(now), snapshot, &policy());
        let warned = actions.into_iter().filter_map(|action| match action {
            Action::Warn { of, cause, .. } => Some((of, cause)),
            _ => None,
        });
        warned.collect::<Vec<_>>()
    };
    let mut snapshot = scene(vec![vm], vec![lease]);
    // It lasts for 100 s, so a minute before would be before its middle.
    assert_eq!(warnings(49, &snapshot), []);
    assert_eq!(warnings(50, &snapshot), [(at(100), Cause::Expiry)]);
    let change = |snapshot: &mut Snapshot, warned: i64, expires: i64| {
        let LeasePhase::Active(grant) = &mut snapshot.leases[0].phase else {
            panic!("not active");
        };
        grant.warned_of = Some(at(warned));
        grant.expires_at = at(expires);
    };
    change(&mut snapshot, 100, 100);
    assert_eq!(warnings(99, &snapshot), []);
    // Extended by an hour: a new end, a new warning.
    change(&mut snapshot, 100, 3700);
    assert_eq!(warnings(3639, &snapshot), []);
    assert_eq!(warnings(3640, &snapshot), [(at(3700), Cause::Expiry)]);
    // It will be idle sooner than it is over; what the guest says of that is not exact.
    snapshot.leases[0].idle_s = Some(600);
    let report = Activity {
        busy_at: at(1000),
        heard_at: at(1500),
    };
    snapshot.activity.insert(VmId::from_bits(1), report);
    assert_eq!(warnings(1540, &snapshot), [(at(1600), Cause::Idleness)]);
    change(&mut snapshot, 1596, 3700);
    assert_eq!(warnings(1540, &snapshot), []);
}

#[test]
fn a_lease_that_saw_so_many_starts_fail_is_given_up() {
    let mut snapshot = scene(vec![], vec![waiting(7, "one")]);
    let failures = |times: &[i64]| times.iter().map(|second| at(*second)).collect::<Vec<_>>();
    let key = kind("one");
    // It was asked for at 7.
    snapshot.failures.insert(key.clone(), failures(&[5, 8, 9]));
    assert_eq!(ends(20, &snapshot), []);
    snapshot.failures.insert(key, failures(&[5, 8, 9, 10]));
    assert_eq!(ends(20, &snapshot), [EndReason::StartFailed]);
}

#[test]
fn a_spare_vm_that_is_unwell_or_old_is_replaced() {
    let snapshot = |unwell: &[u64]| {
        let mut snapshot = scene(vec![vm(1, "one", VmPhase::Ready)], vec![]);
        snapshot.unwell = unwell.iter().map(|id| VmId::from_bits(*id)).collect();
        snapshot
    };
    let mut policy = policy();
    policy.targets.insert(kind("one"), 1);
    let destroyed = |now: OffsetDateTime, snapshot: &Snapshot| {
        let actions = plan(now, snapshot, &policy);
        let reasons = actions.into_iter().filter_map(|action| match action {
            Action::Destroy { reason, .. } => Some(reason),
            _ => None,
        });
        reasons.collect::<Vec<_>>()
    };
    assert_eq!(destroyed(at(1), &snapshot(&[])), []);
    assert_eq!(destroyed(at(1), &snapshot(&[1])), [DestroyReason::Unwell]);
    let age = at(0) + policy.ready_max_age;
    assert_eq!(destroyed(age, &snapshot(&[])), [DestroyReason::Aged]);
}

#[test]
fn projects_take_turns_and_each_keeps_its_own_order() {
    let of = |project: &str, id| LeaseRow {
        project: project.to_owned(),
        ..waiting(id, "one")
    };
    let all = vec![of("a", 1), of("a", 2), of("a", 3), of("b", 4), of("b", 5)];
    let snapshot = scene(vec![], all);
    let told = outlook(at(10), &snapshot, &policy(), &Pace::default());
    let position = |id| told[&LeaseId::from_bits(id)].position;
    assert_eq!([1, 2, 3, 4, 5].map(position), [1, 3, 5, 2, 4]);
}

#[test]
fn who_waits_is_told_where_it_stands_and_how_long_it_may_take() {
    // Eight units of memory: four are leased until 100, four are on their way.
    let (vm, lease) = held();
    let vm = VmRow {
        key: kind("four"),
        memory_mib: 4,
        ..vm
    };
    let lease = LeaseRow {
        key: kind("four"),
        ..lease
    };
    let coming = VmRow {
        phase_since: at(15),
        ..super::rules::vm(2, "four", VmPhase::Activating)
    };
    let all = vec![
        lease,
        waiting(11, "four"),
        waiting(12, "four"),
        waiting(13, "two"),
    ];
    let mut snapshot = scene(vec![vm, coming], all);
    snapshot.observed = running(&[1, 2]);
    let told = |pace: &Pace| outlook(at(20), &snapshot, &policy(), pace);
    let at_place = |told: &BTreeMap<LeaseId, remote_docker_api::Queue>, id| {
        let queue = &told[&LeaseId::from_bits(id)];
        (queue.position, queue.doing, queue.estimated_wait_s)
    };
    let nothing_known = told(&Pace::default());
    assert_eq!(at_place(&nothing_known, 11), (1, Doing::Activating, None));
    assert_eq!(at_place(&nothing_known, 12), (2, Doing::Queued, None));

    let start =
        [("four", 1500), ("two", 2000)].map(|(name, ms)| (kind(name), Duration::milliseconds(ms)));
    let pace = Pace {
        start: start.into(),
        template: BTreeMap::new(),
    };
    let told = told(&pace);
    assert_eq!(at_place(&told, 11), (1, Doing::Activating, Some(2)));
    // The first room is there at 100, in 80 s.
    assert_eq!(at_place(&told, 12), (2, Doing::Queued, Some(82)));
    // Nothing that could be told would give room for one more.
    assert_eq!(at_place(&told, 13), (3, Doing::Queued, None));
}
