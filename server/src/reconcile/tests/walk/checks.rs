//! What holds at every moment, whatever happens. The numbers are those of ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};

use remote_docker_api::LeaseId;
use time::OffsetDateTime;

use super::holder::brief;
use crate::ids::{Slot, VmId};
use crate::lease::{Budget, LeasePhase, LeaseRow, Policy, VmPhase, VmRow};

/// 2, 4, 5: what rows say together.
pub(super) fn rows_agree(vms: &[VmRow], leases: &[LeaseRow], budget: Budget) {
    let active: BTreeSet<(LeaseId, VmId)> = leases
        .iter()
        .filter_map(|lease| match &lease.phase {
            LeasePhase::Active(grant) => Some((lease.id, grant.vm)),
            _ => None,
        })
        .collect();
    let assigned: BTreeSet<(LeaseId, VmId)> = vms
        .iter()
        .filter_map(|vm| match vm.phase {
            VmPhase::Assigned { lease } => Some((lease, vm.id)),
            _ => None,
        })
        .collect();
    assert_eq!(active, assigned, "2: active leases and assigned machines");
    let slots: BTreeSet<Slot> = vms.iter().map(|vm| vm.slot).collect();
    assert_eq!(slots.len(), vms.len(), "4: a slot is taken twice: {vms:?}");
    let possible = Slot(1)..=Slot(budget.slots);
    assert!(
        slots.iter().all(|slot| possible.contains(slot)),
        "4: {slots:?}"
    );
    let mib: u64 = vms.iter().map(|vm| u64::from(vm.memory_mib)).sum();
    assert!(mib <= budget.memory_mib, "5: {mib} MiB: {vms:?}");
}

/// 17: no project has more than it may have.
pub(super) fn quotas_hold(leases: &[LeaseRow], policy: &Policy) {
    for project in policy.quotas.keys() {
        let active = leases.iter().filter(|lease| {
            matches!(lease.phase, LeasePhase::Active(_)) && lease.project == *project
        });
        let active: Vec<_> = active.collect();
        assert!(is_within(project, &active, policy), "17: {active:#?}");
    }
}

/// Whether a project may have machines for all of these.
fn is_within(project: &str, leases: &[&LeaseRow], policy: &Policy) -> bool {
    let Some(quota) = policy.quotas.get(project) else {
        return true;
    };
    let count = u32::try_from(leases.len()).unwrap();
    let memory = |lease: &&LeaseRow| u64::from(policy.sizes[&lease.key]);
    let mib: u64 = leases.iter().map(memory).sum();
    quota.max_leases.is_none_or(|most| count <= most)
        && quota.max_memory_mib.is_none_or(|most| mib <= most)
}

/// Of those that wait, in their order, those that wait for the host and not for their own project.
pub(super) fn within_quota<'a>(
    waiting: &[&'a LeaseRow],
    leases: &'a [LeaseRow],
    policy: &Policy,
) -> Vec<&'a LeaseRow> {
    let active = |lease: &&LeaseRow| matches!(lease.phase, LeasePhase::Active(_));
    let mut held: Vec<&LeaseRow> = leases.iter().filter(active).collect();
    let mut full = BTreeSet::new();
    let mut within = Vec::new();
    for lease in waiting.iter().copied() {
        let ours = held.iter().copied();
        let ours = ours.filter(|other| other.project == lease.project);
        let ours: Vec<_> = ours.chain([lease]).collect();
        if full.contains(&lease.project) || !is_within(&lease.project, &ours, policy) {
            full.insert(lease.project.clone());
        } else {
            held.push(lease);
            within.push(lease);
        }
    }
    within
}

/// 4: nobody has the port of another, also not of one that is just ending; `ending` are the ports of
/// those.
pub(super) fn ports_are_nobody_elses(leases: &[LeaseRow], ending: &BTreeMap<LeaseId, u16>) {
    let mut owners: BTreeMap<u16, LeaseId> = ending.iter().map(|(id, port)| (*port, *id)).collect();
    for lease in leases {
        if let LeasePhase::Active(grant) = &lease.phase {
            let owner = owners.insert(grant.port, lease.id);
            assert!(owner.is_none(), "4: {lease:?} and {owner:?} have one port");
        }
    }
}

/// Nobody got a machine between two looks who had come after somebody that wanted the same kind and
/// went on waiting: neither of the same project, nor of one that has fewer.
pub(super) fn nobody_was_passed_over(
    before: &[LeaseRow],
    after: &[LeaseRow],
    policy: &Policy,
    now: OffsetDateTime,
) {
    let waited: BTreeSet<LeaseId> = before
        .iter()
        .filter(|lease| lease.phase == LeasePhase::Waiting)
        .map(|lease| lease.id)
        .collect();
    let came = |lease: &LeaseRow| (lease.created_at, lease.id);
    let served = after.iter().filter_map(|lease| match &lease.phase {
        LeasePhase::Active(grant) if waited.contains(&lease.id) => Some((lease, grant.ready_at)),
        _ => None,
    });
    for (served, at) in served {
        let waits_on = after.iter().filter(|lease| {
            lease.phase == LeasePhase::Waiting
                && waited.contains(&lease.id)
                // It was there already when the round began that served the other.
                && lease.created_at < at
                && lease.end_wish.is_none()
                && lease.wait_until > now
                && lease.key == served.key
                // It may have to wait for its own project.
                && (lease.project == served.project || !policy.quotas.contains_key(&lease.project))
        });
        for waits_on in waits_on {
            // Places only get better. The worst that one had is compared with the best of the other.
            let worst = (place(waits_on, before, |_| true), came(waits_on));
            // One that was asked for at the same moment may have come after that round.
            let counts =
                |lease: &LeaseRow| lease.end_wish.is_none() && lease.created_at < served.created_at;
            let best = place(served, after, counts);
            assert!(
                worst > (best, came(served)),
                "{} was served before {}; {worst:?}, {best:?}; before: {:#?}; after: {:#?}",
                brief(served),
                brief(waits_on),
                before.iter().map(brief).collect::<Vec<_>>(),
                after.iter().map(brief).collect::<Vec<_>>(),
            );
        }
    }
}

/// Which of its project's leases this is, among those that count.
pub(super) fn place(
    lease: &LeaseRow,
    all: &[LeaseRow],
    counts: impl Fn(&LeaseRow) -> bool,
) -> usize {
    let came = |lease: &LeaseRow| (lease.created_at, lease.id);
    all.iter()
        .filter(|other| matches!(other.phase, LeasePhase::Waiting | LeasePhase::Active(_)))
        .filter(|other| other.project == lease.project && came(other) < came(lease))
        .filter(|other| counts(other))
        .count()
}
