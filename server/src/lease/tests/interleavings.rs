//! Random interleavings of users, time, failures, crashes and restarts.

use proptest::prelude::*;
use remote_docker_api::EndReason;

use super::world::{Asked, World};
use super::*;

/// What can happen. Numbers choose among what is there.
#[derive(Debug, Clone)]
enum Event {
    Ask(Asked),
    Heartbeat(usize),
    Extend {
        which: usize,
        seconds: i64,
    },
    /// A guest says how long it has been idle.
    Report {
        which: usize,
        idle_s: i64,
    },
    /// A guest stops answering.
    Unwell(usize),
    Release(usize),
    ClientGone(usize),
    Pass {
        seconds: i64,
    },
    /// An action ends.
    Land {
        which: usize,
        ok: bool,
    },
    /// A VM on the host stops running.
    Crash(usize),
    /// What is left of a VM on the host disappears, or the VM does: somebody else cleans up.
    Vanish(usize),
    /// Something of ours without a row shows up on the host.
    Stray {
        running: bool,
    },
    Restart {
        done: bool,
    },
    Reconcile {
        observe: bool,
    },
    /// An image was changed.
    TemplateOutdated(&'static str),
}

fn kinds() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("one"), 3 => Just("two"), 2 => Just("four"), 1 => Just("nine")]
}

fn maybe(range: std::ops::Range<u32>) -> impl Strategy<Value = Option<u32>> {
    prop::option::weighted(0.3, range)
}

fn event() -> impl Strategy<Value = Event> {
    let deadlines = (5..200_u32, maybe(3..60_u32), maybe(3..60_u32), 0..90_i64);
    let projects = prop_oneof![Just("a"), Just("b")];
    let ask = (projects, kinds(), deadlines, any::<bool>()).prop_map(
        |(project, kind, (ttl_s, keepalive_s, idle_s, wait_s), attended)| {
            Event::Ask(Asked {
                project,
                kind,
                ttl_s,
                keepalive_s,
                idle_s,
                wait_s,
                attended,
            })
        },
    );
    prop_oneof![
        6 => ask,
        3 => any::<usize>().prop_map(Event::Heartbeat),
        1 => (any::<usize>(), 0..300_i64)
            .prop_map(|(which, seconds)| Event::Extend { which, seconds }),
        3 => (any::<usize>(), 0..30_i64).prop_map(|(which, idle_s)| Event::Report { which, idle_s }),
        1 => any::<usize>().prop_map(Event::Unwell),
        2 => any::<usize>().prop_map(Event::Release),
        1 => any::<usize>().prop_map(Event::ClientGone),
        2 => (1..25_i64).prop_map(|seconds| Event::Pass { seconds }),
        10 => (any::<usize>(), prop::bool::weighted(0.85))
            .prop_map(|(which, ok)| Event::Land { which, ok }),
        1 => any::<usize>().prop_map(Event::Crash),
        1 => any::<usize>().prop_map(Event::Vanish),
        1 => any::<bool>().prop_map(|running| Event::Stray { running }),
        1 => any::<bool>().prop_map(|done| Event::Restart { done }),
        12 => prop::bool::weighted(0.7).prop_map(|observe| Event::Reconcile { observe }),
        1 => kinds().prop_map(Event::TemplateOutdated),
    ]
}

/// Element of a collection that `choice` points at.
fn pick<T>(items: impl IntoIterator<Item = T>, choice: usize) -> Option<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    let index = choice.checked_rem(items.len())?;
    Some(items.swap_remove(index))
}

impl World {
    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Ask(ref asked) => self.ask(asked),
            Event::Heartbeat(which) => {
                let now = self.now;
                self.hold_one(which, |grant| grant.heartbeat_at = now);
            }
            Event::Extend { which, seconds } => {
                let until = self.now + Duration::seconds(seconds);
                self.hold_one(which, |grant| {
                    grant.expires_at = grant.expires_at.max(until)
                });
            }
            Event::Report { which, idle_s } => {
                if let Some(vm) = pick(self.host.keys().copied(), which) {
                    let report = Activity {
                        busy_at: self.now - Duration::seconds(idle_s),
                        heard_at: self.now,
                    };
                    self.activity.insert(vm, report);
                    self.stirred.insert(vm);
                }
            }
            Event::Unwell(which) => {
                self.unwell.extend(pick(self.host.keys().copied(), which));
            }
            Event::Release(which) => self.wish_one(which, EndReason::Released),
            Event::ClientGone(which) => self.wish_one(which, EndReason::ClientGone),
            Event::Pass { seconds } => self.now += Duration::seconds(seconds),
            Event::Land { which, ok } => {
                if let Some(index) = pick(0..self.flights.len(), which) {
                    self.land(index, ok);
                }
            }
            Event::Crash(which) => {
                if let Some((_, running)) = pick(self.host.iter_mut(), which) {
                    *running = false;
                }
            }
            Event::Vanish(which) => {
                if let Some(vm) = pick(self.host.keys().copied(), which) {
                    self.host.remove(&vm);
                }
            }
            Event::Stray { running } => self.stray(running),
            Event::Restart { done } => self.restart(done),
            Event::Reconcile { observe } => {
                let actions = self.reconcile(observe);
                self.check_plan(&actions);
            }
            Event::TemplateOutdated(name) => {
                let state = self.templates.get_mut(&kind(name));
                if let Some(state) = state.filter(|state| state.is_settled()) {
                    *state = TemplateState::Missing;
                }
            }
        }
        self.check();
    }

    fn wish_one(&mut self, which: usize, reason: EndReason) {
        if let Some(lease) = pick(self.leases.keys().copied(), which) {
            self.wish(lease, reason);
        }
    }

    fn hold_one(&mut self, which: usize, change: impl FnOnce(&mut Grant)) {
        if let Some(lease) = pick(self.leases.keys().copied(), which) {
            self.hold(lease, change);
        }
    }

    /// Time stands still, nothing fails any more: plans and lands until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..100 {
            let actions = self.reconcile(true);
            self.check_plan(&actions);
            self.check();
            if actions.is_empty() && self.flights.is_empty() {
                return;
            }
            while !self.flights.is_empty() {
                self.land(0, true);
                self.check();
            }
        }
        panic!("it never comes to rest: {:?}", self.reconcile(true));
    }

    /// Who must have a machine when everything has settled: those that hold one that runs; of those
    /// that wait, in their order, whoever finds one of its kind in stock; and of the rest, in their
    /// order, all until one does not fit.
    fn entitled(&self) -> BTreeSet<LeaseId> {
        let mut served: Vec<&LeaseRow> = (self.grants())
            .filter(|(_, grant)| self.host.get(&grant.vm) == Some(&true))
            .filter(|(lease, grant)| self.lasts(&self.leases[lease], grant))
            .map(|(lease, _)| &self.leases[&lease])
            .filter(|lease| lease.end_wish.is_none())
            .collect();
        let mut waiting: Vec<&LeaseRow> = (self.leases.values())
            .filter(|lease| lease.phase == LeasePhase::Waiting && self.now < lease.wait_until)
            .filter(|lease| lease.end_wish.is_none() && !self.starts_failed(lease))
            .collect();
        self.in_turn(&mut waiting);
        waiting.retain(|lease| lease.key != kind("nine"));
        self.retain_those_within_quota(&served, &mut waiting);
        let mut stock: Vec<&PoolKey> = self.stock().map(|vm| &vm.key).collect();
        waiting.retain(|lease| {
            let found = stock.iter().position(|key| **key == lease.key);
            if let Some(found) = found {
                stock.remove(found);
                served.push(lease);
            }
            found.is_none()
        });
        let memory = |lease: &&LeaseRow| u64::from(self.policy.sizes[&lease.key]);
        for lease in waiting {
            let taken: u64 = served.iter().map(memory).sum();
            let fits = taken + memory(&lease) <= self.policy.budget.memory_mib;
            if !fits || served.len() >= self.policy.budget.slots.into() {
                break;
            }
            served.push(lease);
        }
        served.iter().map(|lease| lease.id).collect()
    }

    /// In each project those are passed over that come after one for which there is no room in the quota.
    fn retain_those_within_quota(&self, served: &[&LeaseRow], waiting: &mut Vec<&LeaseRow>) {
        let memory = |lease: &LeaseRow| u64::from(self.policy.sizes[&lease.key]);
        let mut held: Vec<&LeaseRow> = served.to_vec();
        let mut full = BTreeSet::new();
        waiting.retain(|lease| {
            let project = lease.project.clone();
            let Some(quota) = self.policy.quotas.get(&project) else {
                return true;
            };
            let most_mib = quota.max_memory_mib.unwrap_or(u64::MAX);
            if memory(lease) > most_mib {
                return false;
            }
            let ours = held.iter().filter(|other| other.project == project);
            let (count, mib): (usize, u64) =
                (ours.clone().count(), ours.map(|other| memory(other)).sum());
            let most = quota.max_leases.map_or(usize::MAX, |most| most as usize);
            let fits = count < most && mib + memory(lease) <= most_mib && !full.contains(&project);
            if fits {
                held.push(lease);
            } else {
                full.insert(project);
            }
            fits
        });
    }

    /// VMs without a lease that will do for one.
    fn stock(&self) -> impl Iterator<Item = &VmRow> {
        self.live_vms().filter(|vm| {
            let runs = self.host.get(&vm.id) == Some(&true);
            match vm.phase {
                VmPhase::Planned => self.snapshot(true).template(&vm.key).is_settled(),
                VmPhase::Activating => {
                    let in_time = self.now < vm.phase_since + self.policy.activate_deadline;
                    runs && in_time && self.connected.contains(&vm.id)
                }
                VmPhase::Ready => {
                    runs && self.keyed.contains(&vm.id) && !self.unwell.contains(&vm.id)
                }
                _ => false,
            }
        })
    }

    /// Nothing is left to do, and nothing will be before the moment that the planner names.
    fn sleeps_until_the_wakeup(&self) {
        let snapshot = self.snapshot(true);
        let end = next_wakeup(self.now, &snapshot, &self.policy)
            .unwrap_or(self.now + Duration::days(1000));
        let before = end - Duration::microseconds(1);
        assert_eq!(plan(before, &snapshot, &self.policy), [], "before {end}");
    }
}

fn targets() -> impl Strategy<Value = BTreeMap<PoolKey, u32>> {
    prop_oneof![
        Just(BTreeMap::new()),
        Just(BTreeMap::from([(kind("one"), 2), (kind("two"), 1)])),
        Just(BTreeMap::from([(kind("one"), 9)])),
    ]
}

fn quotas() -> impl Strategy<Value = BTreeMap<String, Quota>> {
    let quota = (prop::option::of(1..4_u32), prop::option::of(1..7_u64));
    let quota = quota.prop_map(|(max_leases, max_memory_mib)| Quota {
        max_leases,
        max_memory_mib,
    });
    let projects = prop_oneof![Just("a".to_owned()), Just("b".to_owned())];
    prop::collection::btree_map(projects, quota, 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens(
        targets in targets(),
        quotas in quotas(),
        prebuild in prop::collection::btree_set(kinds().prop_map(kind), 0..3),
        events in prop::collection::vec(event(), 1..80),
    ) {
        let mut world = World::new(Policy { targets, quotas, prebuild, ..policy() });
        for event in &events {
            world.happen(event);
        }

        // The order of rows does not matter.
        let mut snapshot = world.snapshot(true);
        let planned = plan(world.now, &snapshot, &world.policy);
        snapshot.vms.reverse();
        snapshot.leases.reverse();
        prop_assert_eq!(planned, plan(world.now, &snapshot, &world.policy));

        // Once failures end, everybody gets what the simple model says, no more and no less.
        world.now += Duration::seconds(31);
        while !world.flights.is_empty() {
            world.land(0, true);
        }
        world.held_back.clear();
        world.stirred.extend(world.activity.keys());
        world.activity.clear();
        if !world.policy.quotas.is_empty() {
            // What ends in a round is room in a quota from the next one on.
            world.reconcile(true);
            while !world.flights.is_empty() {
                world.land(0, true);
            }
        }
        let entitled = world.entitled();
        world.settle();
        let active: BTreeSet<_> = world.grants().map(|(lease, _)| lease).collect();
        prop_assert_eq!(active, entitled);
        world.sleeps_until_the_wakeup();

        // A restart changes nothing for those who have a machine.
        let before: Vec<_> = world.grants().map(|(lease, _)| lease).collect();
        world.restart(true);
        world.settle();
        let after: Vec<_> = world.grants().map(|(lease, _)| lease).collect();
        prop_assert!(before.iter().all(|lease| after.contains(lease)));

        // When all time is over, only the stock is left, and without a stock nothing.
        world.now += Duration::seconds(300);
        world.settle();
        for vm in world.live_vms() {
            prop_assert_eq!(vm.phase, VmPhase::Ready);
            prop_assert!(world.policy.targets.contains_key(&vm.key));
        }
        world.policy.targets.clear();
        world.now += Duration::seconds(20);
        world.settle();
        prop_assert_eq!(world.live_vms().count(), 0);
        for key in &world.policy.prebuild {
            let settled = world.snapshot(true).template(key).is_settled();
            prop_assert_eq!(settled, *key != kind("nine"), "the template of {:?}", key);
        }
        prop_assert!(world.host.is_empty(), "{:?}", world.host);
        for lease in world.leases.values() {
            prop_assert!(matches!(lease.phase, LeasePhase::Ended { .. }), "{:?}", lease);
        }
        prop_assert_eq!(next_wakeup(world.now, &world.snapshot(true), &world.policy), None);
    }
}
