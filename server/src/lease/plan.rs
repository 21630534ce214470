//! What is to be done next.

use std::collections::{BTreeMap, BTreeSet};

use remote_docker_api::{EndReason, LeaseId};
use time::OffsetDateTime;

use super::capacity::Need;
use super::deadline::{self, Cause};
use super::disk;
use super::growth::Growth;
use super::pool::{Pool, Served};
use super::queue;
use super::quota::Ledger;
use super::snapshot::{Policy, Snapshot};
use super::verdict::Judge;
use super::{DestroyReason, LeasePhase, LeaseRow, PoolKey, VmPhase, VmRow};
use crate::ids::VmId;

/// One step. Each is safe to carry out late: it is a compare-and-set on what the plan saw, or acts on
/// the host for a VM that only one action at a time may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// End a lease; its VM, if it has one, begins to be destroyed in the same transaction.
    EndLease {
        /// Which.
        lease: LeaseId,
        /// Why.
        reason: EndReason,
    },
    /// Warn the holder of a lease that it will end.
    Warn {
        /// Which.
        lease: LeaseId,
        /// When it will end.
        of: OffsetDateTime,
        /// Why.
        cause: Cause,
    },
    /// Hand a ready VM to a waiting lease.
    Assign {
        /// Who gets it.
        lease: LeaseId,
        /// What.
        vm: VmId,
    },
    /// Give a started VM its identity.
    Activate(VmId),
    /// Start a planned VM.
    Start(VmId),
    /// Build the template of this key.
    BuildTemplate(PoolKey),
    /// Write the row of a new VM.
    CreateVm(PoolKey),
    /// Write into a VM's row that it is to be destroyed. Touches the row only, so it is also right
    /// while an action on the VM hangs.
    Destroy {
        /// Which. Never one that is assigned to an active lease: that ends with its lease.
        vm: VmId,
        /// Why.
        reason: DestroyReason,
    },
    /// Let a VM go on that stands still for want of disk space.
    Resume(VmId),
    /// Take a VM that is being destroyed off the host; it is gone once the host was seen clean.
    TearDown(VmId),
    /// Close a lease whose VM is gone.
    FinishLease(LeaseId),
    /// Take a VM of this installation that has no row off the host.
    SweepOrphan(VmId),
}

/// Decides what to do at `now`. The same input gives the same actions in the same order; carrying out
/// any part of them and asking again is always right.
///
/// Leases are served strictly in the order of their queue (`queue.rs`): a ready VM goes to the first
/// that wants its kind, and while the first that needs new memory does not fit, memory is kept for it
/// instead of going to later, smaller ones. A big lease would otherwise starve on a host that is busy
/// with small ones. Only who has to wait for the quota of its own project is passed over (`quota.rs`).
///
/// Nothing that writes is begun while the disk has less than its reserve.
#[must_use]
pub fn plan(now: OffsetDateTime, snapshot: &Snapshot, policy: &Policy) -> Vec<Action> {
    let judge = Judge::new(now, snapshot, policy);
    let mut ends = ends(&judge, snapshot);
    let mut destroy = faults(&judge, snapshot);
    let relief = disk::relief(now, &judge, snapshot, policy, &ends, &destroy);
    ends.extend(relief.lease.map(|lease| (lease, EndReason::DiskFull)));
    mark_surplus(&mut destroy, relief.spare);
    let disk_is_low = disk::is_low(snapshot, policy);
    let mut pool = Pool::new(snapshot, &destroy);

    let mut assign = Vec::new();
    let mut unserved = Vec::new();
    let mut growth = Growth::new(now, snapshot, policy);
    let mut ledger = Ledger::new(&judge, snapshot, policy);
    for lease in waiting(snapshot, &ends) {
        if !ledger.admits(lease) {
            continue;
        }
        match pool.serve(&lease.key) {
            Served::By(vm) => assign.push(Action::Assign {
                lease: lease.id,
                vm,
            }),
            Served::Soon(_) => {}
            // One that cannot be had now takes nothing away from the rest of its project.
            Served::Not if growth.obtainable(&lease.key).is_none() => continue,
            Served::Not => unserved.push(lease),
        }
        let memory = policy.sizes.get(&lease.key);
        ledger.take(lease, memory.copied().unwrap_or_default());
    }

    match growth.serve(&unserved) {
        // Nobody goes for the sake of one that may not start.
        _ if disk_is_low => {}
        Ok(()) => {
            growth.fill(&pool);
            growth.prepare();
        }
        Err(lacking) => {
            let lacking = lacking.after(coming_free(snapshot, &ends, &destroy));
            mark_surplus(&mut destroy, pool.evict(lacking));
        }
    }
    mark_surplus(&mut destroy, pool.shrink(now, policy));

    let resume = disk::resume(&judge, snapshot, policy, &ends, &destroy);
    let mut actions: Vec<Action> = ends
        .into_iter()
        .map(|(lease, reason)| Action::EndLease { lease, reason })
        .collect();
    actions.extend(assign);
    let warnings = warnings(now, &judge, snapshot, policy, &actions);
    actions.extend(warnings);
    actions.extend(activations(&judge, &destroy));
    if !disk_is_low {
        actions.extend(starts(now, &judge, snapshot, &destroy));
        actions.extend(growth.into_actions());
    }
    actions.extend(
        destroy
            .into_iter()
            .map(|(vm, reason)| Action::Destroy { vm, reason }),
    );
    actions.extend(resume.into_iter().map(Action::Resume));
    actions.extend(clean_up(&judge, snapshot));
    actions
}

pub(super) type Faults = BTreeMap<VmId, DestroyReason>;

pub(super) fn faults(judge: &Judge<'_>, snapshot: &Snapshot) -> Faults {
    let of = |vm: &VmRow| Some((vm.id, judge.fault_of(vm)?));
    snapshot.vms.iter().filter_map(of).collect()
}

fn mark_surplus(destroy: &mut Faults, surplus: Vec<VmId>) {
    destroy.extend(surplus.into_iter().map(|vm| (vm, DestroyReason::Surplus)));
}

pub(super) fn ends(judge: &Judge<'_>, snapshot: &Snapshot) -> BTreeMap<LeaseId, EndReason> {
    snapshot
        .leases
        .iter()
        .filter(|lease| !snapshot.busy_leases.contains(&lease.id))
        .filter_map(|lease| Some((lease.id, judge.end_of(lease)?)))
        .collect()
}

/// Holders that are to be warned of an end that is not there yet.
fn warnings(
    now: OffsetDateTime,
    judge: &Judge<'_>,
    snapshot: &Snapshot,
    policy: &Policy,
    ends: &[Action],
) -> Vec<Action> {
    let ending: BTreeSet<LeaseId> = ends
        .iter()
        .filter_map(|action| match action {
            Action::EndLease { lease, .. } => Some(*lease),
            _ => None,
        })
        .collect();
    let warned = snapshot
        .leases
        .iter()
        .filter(|lease| lease.end_wish.is_none() && !ending.contains(&lease.id))
        .filter_map(|lease| match &lease.phase {
            LeasePhase::Active(grant) if !judge.is_busy(grant.vm) => {
                let end = deadline::warning(now, lease, grant, snapshot.heard(grant.vm), policy)?;
                Some((lease.id, end))
            }
            _ => None,
        });
    // In the order of their ids, whatever that of the rows.
    let warned: BTreeMap<LeaseId, _> = warned.collect();
    warned
        .into_iter()
        .map(|(lease, end)| Action::Warn {
            lease,
            of: end.at,
            cause: end.cause,
        })
        .collect()
}

/// Leases that go on waiting, the next to be served first. A busy one is being served already.
pub(super) fn waiting<'a>(
    snapshot: &'a Snapshot,
    ends: &BTreeMap<LeaseId, EndReason>,
) -> Vec<&'a LeaseRow> {
    let lasting = snapshot.leases.iter().filter(|lease| {
        let lives = matches!(lease.phase, LeasePhase::Waiting | LeasePhase::Active(_));
        lives && !ends.contains_key(&lease.id)
    });
    let mut waiting = queue::in_turn(lasting, &snapshot.quiet);
    waiting.retain(|lease| !snapshot.busy_leases.contains(&lease.id));
    waiting
}

/// What is on its way out, so that nothing more needs to be evicted for it.
fn coming_free(snapshot: &Snapshot, ends: &BTreeMap<LeaseId, EndReason>, destroy: &Faults) -> Need {
    snapshot
        .vms
        .iter()
        .filter(|vm| match vm.phase {
            VmPhase::Destroying { .. } => true,
            VmPhase::Assigned { lease } => ends.contains_key(&lease),
            _ => destroy.contains_key(&vm.id),
        })
        .fold(Need::default(), |sum, vm| sum.and(Need::vm(vm.memory_mib)))
}

/// VMs that nobody works on and that are not given up.
fn free<'a>(judge: &Judge<'a>, destroy: &Faults) -> impl Iterator<Item = &'a VmRow> {
    let free = |vm: &&VmRow| !judge.is_busy(vm.id) && !destroy.contains_key(&vm.id);
    judge.vms().filter(free)
}

/// VMs that were started and are to become machines of their own.
fn activations(judge: &Judge<'_>, destroy: &Faults) -> Vec<Action> {
    free(judge, destroy)
        .filter(|vm| vm.phase == VmPhase::Activating)
        .map(|vm| Action::Activate(vm.id))
        .collect()
}

/// VMs that are planned and may start.
fn starts(
    now: OffsetDateTime,
    judge: &Judge<'_>,
    snapshot: &Snapshot,
    destroy: &Faults,
) -> Vec<Action> {
    free(judge, destroy)
        .filter(|vm| vm.phase == VmPhase::Planned)
        .filter(|vm| snapshot.template(&vm.key).is_settled())
        .filter(|vm| !snapshot.is_held_back(&vm.key, now))
        .map(|vm| Action::Start(vm.id))
        .collect()
}

/// Takes away what is over and what nobody knows.
fn clean_up(judge: &Judge<'_>, snapshot: &Snapshot) -> Vec<Action> {
    let finish: BTreeSet<LeaseId> = snapshot
        .leases
        .iter()
        .filter(|lease| !snapshot.busy_leases.contains(&lease.id))
        .filter(|lease| match &lease.phase {
            LeasePhase::Ending { vm, .. } => vm.is_none_or(|vm| !judge.knows(vm)),
            _ => false,
        })
        .map(|lease| lease.id)
        .collect();
    let tear_down = judge.vms().filter_map(|vm| {
        let due = matches!(vm.phase, VmPhase::Destroying { .. }) && !judge.is_busy(vm.id);
        due.then_some(Action::TearDown(vm.id))
    });
    let present: BTreeSet<VmId> = snapshot
        .observed
        .iter()
        .flat_map(|host| host.running.union(&host.remnants))
        .copied()
        .collect();
    let orphans = present
        .into_iter()
        .filter(|vm| !judge.knows(*vm) && !judge.is_busy(*vm))
        .map(Action::SweepOrphan);
    let finish = finish.into_iter().map(Action::FinishLease);
    finish.chain(tear_down).chain(orphans).collect()
}
