//! What those who wait are told: their place, what is being done for them, and how long it may take.

use std::collections::BTreeMap;

use remote_docker_api::{Doing, LeaseId, Queue};
use time::{Duration, OffsetDateTime};

use super::capacity::Need;
use super::growth::Growth;
use super::plan::{ends, faults, waiting};
use super::pool::{Pool, Served};
use super::quota::Ledger;
use super::snapshot::{Policy, Snapshot, TemplateState};
use super::verdict::Judge;
use super::{LeasePhase, LeaseRow, PoolKey, VmPhase};

/// How long things took lately on this host. What is not known is left out, and nothing is estimated
/// that depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pace {
    /// From the decision to make a machine to its being ready.
    pub start: BTreeMap<PoolKey, Duration>,
    /// Building a template.
    pub template: BTreeMap<PoolKey, Duration>,
}

/// What to tell each lease that waits. It looks at the same queue in the same order as the plan does.
#[must_use]
pub fn outlook(
    now: OffsetDateTime,
    snapshot: &Snapshot,
    policy: &Policy,
    pace: &Pace,
) -> BTreeMap<LeaseId, Queue> {
    let judge = Judge::new(now, snapshot, policy);
    let mut pool = Pool::new(snapshot, &faults(&judge, snapshot));
    let mut room = Coming::new(now, snapshot, policy);
    let mut ledger = Ledger::new(&judge, snapshot, policy);
    let growth = Growth::new(now, snapshot, policy);
    let mut positions = 1..;
    let mut told = BTreeMap::new();
    let mut held = Vec::new();
    let is_handed_one = |lease: &&LeaseRow| {
        lease.phase == LeasePhase::Waiting && snapshot.busy_leases.contains(&lease.id)
    };
    for lease in snapshot.leases.iter().filter(is_handed_one) {
        let queue = Queue {
            position: positions.next().unwrap_or(u32::MAX),
            doing: Doing::Queued,
            estimated_wait_s: Some(0),
        };
        told.insert(lease.id, queue);
    }
    for lease in waiting(snapshot, &ends(&judge, snapshot)) {
        if !ledger.admits(lease) {
            held.push(lease.id);
            continue;
        }
        let start = pace.start.get(&lease.key).copied();
        let served = pool.serve(&lease.key);
        if !matches!(served, Served::Not) || growth.obtainable(&lease.key).is_some() {
            let memory = policy.sizes.get(&lease.key);
            ledger.take(lease, memory.copied().unwrap_or_default());
        }
        let (doing, wait) = match served {
            // It gets one in this very moment.
            Served::By(_) => (Doing::Queued, Some(Duration::ZERO)),
            Served::Soon(VmPhase::Planned) => (Doing::Queued, start),
            Served::Soon(VmPhase::Starting) => (Doing::Cloning, start),
            Served::Soon(_) => (Doing::Activating, start),
            Served::Not => without_vm(lease, snapshot, pace, &mut room, policy),
        };
        let position = positions.next().unwrap_or(u32::MAX);
        let queue = Queue {
            position,
            doing,
            estimated_wait_s: wait.map(whole_seconds),
        };
        told.insert(lease.id, queue);
    }
    // Whoever waits for their own project stands behind all that wait for the host: those do not wait for
    // them. How long, nobody knows who does not know when that project gives a machine back.
    for lease in held {
        let queue = Queue {
            position: positions.next().unwrap_or(u32::MAX),
            doing: Doing::Quota,
            estimated_wait_s: None,
        };
        told.insert(lease, queue);
    }
    told
}

fn without_vm(
    lease: &LeaseRow,
    snapshot: &Snapshot,
    pace: &Pace,
    room: &mut Coming<'_>,
    policy: &Policy,
) -> (Doing, Option<Duration>) {
    let building = snapshot.template(&lease.key) == TemplateState::Building;
    let doing = if building {
        Doing::BuildingTemplate
    } else {
        Doing::Queued
    };
    let free_in = policy
        .sizes
        .get(&lease.key)
        .and_then(|memory| room.take(Need::vm(*memory)));
    let template = if snapshot.template(&lease.key).is_settled() {
        Some(Duration::ZERO)
    } else {
        pace.template.get(&lease.key).copied()
    };
    let parts = [free_in, template, pace.start.get(&lease.key).copied()];
    let wait = parts
        .into_iter()
        .try_fold(Duration::ZERO, |sum, part| Some(sum.saturating_add(part?)));
    (doing, wait)
}

/// Room as it comes free when every lease lasts as long as it may.
struct Coming<'a> {
    free: Need,
    /// In how long what comes free, the soonest first.
    later: Box<dyn Iterator<Item = (Duration, Need)> + 'a>,
    reached: Duration,
}

impl<'a> Coming<'a> {
    fn new(now: OffsetDateTime, snapshot: &'a Snapshot, policy: &Policy) -> Self {
        let ends: BTreeMap<_, _> = snapshot
            .leases
            .iter()
            .filter_map(|lease| match &lease.phase {
                LeasePhase::Active(grant) => Some((grant.vm, grant.expires_at)),
                _ => None,
            })
            .collect();
        let whole = policy.budget.without(snapshot.building_mib(policy)).whole();
        let mut later: Vec<_> = snapshot
            .vms
            .iter()
            .filter_map(|vm| {
                let freed = Need::vm(vm.memory_mib);
                match vm.phase {
                    VmPhase::Destroying { .. } => Some((Duration::ZERO, freed)),
                    VmPhase::Assigned { .. } => {
                        let rest = *ends.get(&vm.id)? - now;
                        Some((rest.max(Duration::ZERO), freed))
                    }
                    _ => None,
                }
            })
            .collect();
        later.sort_by_key(|(when, _)| *when);
        let rest = move |at: OffsetDateTime| (at - now).max(Duration::ZERO);
        let quiet = snapshot.quiet.ends();
        let quiet = quiet.map(move |(at, freed)| (rest(at), freed));
        let later = merge(later.into_iter(), quiet);
        Self {
            free: whole.after(Need::of_all(snapshot)),
            later: Box::new(later),
            reached: Duration::ZERO,
        }
    }

    /// In how long there is room for this, at the latest; `None` when that cannot be told. Whoever
    /// comes next in the queue gets room no earlier.
    fn take(&mut self, need: Need) -> Option<Duration> {
        while !need.after(self.free).is_nothing() {
            let (when, freed) = self.later.next()?;
            self.reached = self.reached.max(when);
            self.free = self.free.and(freed);
        }
        self.free = self.free.after(need);
        Some(self.reached)
    }
}

/// Both in one order; each is in order by itself.
fn merge<T>(
    one: impl Iterator<Item = (Duration, T)>,
    other: impl Iterator<Item = (Duration, T)>,
) -> impl Iterator<Item = (Duration, T)> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some((first, _)), Some((second, _))) if second < first => other.next(),
        (Some(_), _) => one.next(),
        (None, _) => other.next(),
    })
}

/// Rounded up: nobody is told to come back too early.
fn whole_seconds(duration: Duration) -> u64 {
    let part = i64::from(duration.subsec_nanoseconds() > 0);
    u64::try_from(duration.whole_seconds() + part).unwrap_or_default()
}
