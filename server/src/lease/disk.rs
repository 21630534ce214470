//! The host's disk, which all VMs write to and nobody shares out: who is given up when it runs full,
//! and who goes on when there is room again.

use std::collections::BTreeMap;

use remote_docker_api::{EndReason, LeaseId};
use time::{Duration, OffsetDateTime};

use super::snapshot::{Policy, Snapshot};
use super::verdict::{Judge, over};
use super::{DestroyReason, VmPhase, VmRow};
use crate::ids::VmId;

/// How long a VM that is being taken off the host is counted on to give its disk space back. One that
/// takes longer may never; somebody else has to go then.
const PATIENCE: Duration = Duration::seconds(15);

/// Who makes room.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Relief {
    /// VMs that no lease has.
    pub(super) spare: Vec<VmId>,
    /// The lease whose machine wrote most.
    pub(super) lease: Option<LeaseId>,
}

/// Whether so little of the disk is left that nothing may be begun that writes to it.
pub(super) fn is_low(snapshot: &Snapshot, policy: &Policy) -> bool {
    let seen = snapshot
        .observed
        .as_ref()
        .and_then(|host| host.free_disk_bytes);
    let known = [snapshot.free_disk_bytes, seen];
    known.into_iter().any(|free| is_lacking(free, policy))
}

/// Whether that is less than the reserve. What is not known is enough.
pub(super) fn is_lacking(free: Option<u64>, policy: &Policy) -> bool {
    free.is_some_and(|free| free < policy.disk_reserve_bytes)
}

/// Decides who is given up so that the disk has its reserve again: VMs without a lease if they alone
/// can make good what is lacking, else the one lease whose machine takes most. What is on its way out
/// already is waited for. One lease for each look at the host: the next look tells whether it helped.
///
/// Nobody is given up when all VMs together do not take what is lacking: somebody else fills this
/// disk, and nothing would be won. Those who find no room wait then, until there is some.
pub(super) fn relief(
    now: OffsetDateTime,
    judge: &Judge<'_>,
    snapshot: &Snapshot,
    policy: &Policy,
    ends: &BTreeMap<LeaseId, EndReason>,
    faults: &BTreeMap<VmId, DestroyReason>,
) -> Relief {
    let Some(host) = &snapshot.observed else {
        return Relief::default();
    };
    let Some(free) = host.free_disk_bytes else {
        return Relief::default();
    };
    let taken = |vm: &VmRow| host.disk_bytes.get(&vm.id).copied().unwrap_or(0);
    let leaves = |vm: &VmRow| match vm.phase {
        VmPhase::Destroying { .. } => !over(vm.phase_since, PATIENCE, now),
        VmPhase::Assigned { lease } => ends.contains_key(&lease),
        _ => faults.contains_key(&vm.id),
    };
    let coming: u64 = judge.vms().filter(|vm| leaves(vm)).map(taken).sum();
    let lacking = policy
        .disk_reserve_bytes
        .saturating_sub(free)
        .saturating_sub(coming);
    if lacking == 0 {
        return Relief::default();
    }
    let stays = |vm: &&VmRow| !leaves(vm) && !judge.is_busy(vm.id) && taken(vm) > 0;
    let mut spare: Vec<_> = judge
        .vms()
        .filter(stays)
        .filter(|vm| vm.phase == VmPhase::Ready)
        .collect();
    spare.sort_by_key(|vm| (std::cmp::Reverse(taken(vm)), vm.id));
    let of_spare: u64 = spare.iter().map(|vm| taken(vm)).sum();
    if of_spare >= lacking {
        let mut given_up = 0;
        let enough = |vm: &&&VmRow| {
            let wanted = given_up < lacking;
            given_up += taken(vm);
            wanted
        };
        let spare = spare.iter().take_while(enough).map(|vm| vm.id).collect();
        return Relief { spare, lease: None };
    }
    let leased = judge.vms().filter(stays).filter_map(|vm| match vm.phase {
        VmPhase::Assigned { lease } if !snapshot.busy_leases.contains(&lease) => Some((vm, lease)),
        _ => None,
    });
    let leased: Vec<_> = leased.collect();
    let of_leases: u64 = leased.iter().map(|(vm, _)| taken(vm)).sum();
    if of_spare + of_leases < lacking {
        return Relief::default();
    }
    let largest = leased
        .into_iter()
        .max_by_key(|(vm, _)| (taken(vm), std::cmp::Reverse(vm.id)));
    Relief {
        spare: Vec::new(),
        lease: largest.map(|(_, lease)| lease),
    }
}

/// VMs that stood still for want of disk space and may go on.
pub(super) fn resume(
    judge: &Judge<'_>,
    snapshot: &Snapshot,
    policy: &Policy,
    ends: &BTreeMap<LeaseId, EndReason>,
    destroy: &BTreeMap<VmId, DestroyReason>,
) -> Vec<VmId> {
    let Some(host) = &snapshot.observed else {
        return Vec::new();
    };
    if host.free_disk_bytes.is_none() || is_low(snapshot, policy) {
        return Vec::new();
    }
    judge
        .vms()
        .filter(|vm| host.stalled.contains(&vm.id) && !judge.is_busy(vm.id))
        .filter(|vm| match vm.phase {
            VmPhase::Assigned { lease } => !ends.contains_key(&lease),
            VmPhase::Ready => !destroy.contains_key(&vm.id),
            // Somebody works on it, or it is on its way out.
            _ => false,
        })
        .map(|vm| vm.id)
        .collect()
}
