//! What one lease or one VM is due by itself, whatever the others need.

use std::collections::BTreeMap;

use remote_docker_api::{EndReason, LeaseId};
use time::{Duration, OffsetDateTime};

use super::deadline;
use super::snapshot::{Policy, Snapshot, TemplateState};
use super::{DestroyReason, LeasePhase, LeaseRow, VmPhase, VmRow};
use crate::ids::VmId;

/// Whether a phase entered at `since` has lasted longer than `limit`. A deadline beyond the end of
/// the calendar never comes.
pub(super) fn over(since: OffsetDateTime, limit: Duration, now: OffsetDateTime) -> bool {
    since.checked_add(limit).is_some_and(|end| now >= end)
}

/// Looks at one lease or VM at a time.
pub(super) struct Judge<'a> {
    now: OffsetDateTime,
    snapshot: &'a Snapshot,
    policy: &'a Policy,
    vms: BTreeMap<VmId, &'a VmRow>,
    holders: BTreeMap<LeaseId, VmId>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(now: OffsetDateTime, snapshot: &'a Snapshot, policy: &'a Policy) -> Self {
        let holders = snapshot
            .leases
            .iter()
            .filter_map(|lease| Some((lease.id, lease.machine()?)));
        Self {
            now,
            snapshot,
            policy,
            vms: snapshot.vms.iter().map(|vm| (vm.id, vm)).collect(),
            holders: holders.collect(),
        }
    }

    /// All VMs, in the order of their ids.
    pub(super) fn vms(&self) -> impl Iterator<Item = &'a VmRow> {
        self.vms.values().copied()
    }

    /// Whether a row of this VM that is not gone exists.
    pub(super) fn knows(&self, vm: VmId) -> bool {
        self.vms.contains_key(&vm)
    }

    /// Memory in MiB of a VM that is not gone and not quiet.
    pub(super) fn memory_of(&self, vm: VmId) -> Option<u32> {
        self.vms.get(&vm).map(|vm| vm.memory_mib)
    }

    pub(super) fn is_busy(&self, vm: VmId) -> bool {
        self.snapshot.busy_vms.contains(&vm)
    }

    /// Whether the host was asked and did not show the VM as running.
    fn not_running(&self, vm: VmId) -> bool {
        let observed = self.snapshot.observed.as_ref();
        observed.is_some_and(|host| !host.running.contains(&vm))
    }

    /// Why this lease is to end now. What its holder wished goes before what happened to it, so that
    /// a release just before the expiry reads as a release.
    pub(super) fn end_of(&self, lease: &LeaseRow) -> Option<EndReason> {
        match &lease.phase {
            LeasePhase::Waiting => lease
                .end_wish
                .or_else(|| (self.now >= lease.wait_until).then_some(EndReason::WaitTimeout))
                .or_else(|| self.starts_fail(lease).then_some(EndReason::StartFailed)),
            LeasePhase::Active(grant) => {
                // Its row and its VM's change together; an action in flight comes first.
                if self.is_busy(grant.vm) {
                    return None;
                }
                let holds = |vm: &&VmRow| vm.phase == (VmPhase::Assigned { lease: lease.id });
                let lost =
                    !self.vms.get(&grant.vm).is_some_and(holds) || self.not_running(grant.vm);
                lease
                    .end_wish
                    .or_else(|| lost.then_some(EndReason::VmLost))
                    .or_else(|| {
                        let heard = self.snapshot.heard(grant.vm);
                        deadline::passed(self.now, lease, grant, heard)
                    })
            }
            LeasePhase::Ending { .. } | LeasePhase::Ended { .. } => None,
        }
    }

    /// Whether so many starts in a row failed while this lease waited that the next will fail too.
    fn starts_fail(&self, lease: &LeaseRow) -> bool {
        let attempts = self.policy.start_attempts.max(1);
        let failures = self.snapshot.failures.get(&lease.key);
        failures
            .and_then(|failures| failures.iter().rev().nth(attempts - 1))
            .is_some_and(|first| *first >= lease.created_at)
    }

    /// Why this VM is to be destroyed now, whether or not it is needed.
    pub(super) fn fault_of(&self, vm: &VmRow) -> Option<DestroyReason> {
        // The deadlines hold for busy VMs as well: an action that hangs cannot be interrupted, but
        // the row moves on, and the host is touched as soon as the action has returned.
        let limit = match vm.phase {
            VmPhase::Starting => Some(self.policy.start_deadline),
            VmPhase::Activating => Some(self.policy.activate_deadline),
            _ => None,
        };
        if limit.is_some_and(|limit| over(vm.phase_since, limit, self.now)) {
            return Some(DestroyReason::Stuck);
        }
        if self.is_busy(vm.id) {
            return None;
        }
        let lost = self.not_running(vm.id).then_some(DestroyReason::Lost);
        match vm.phase {
            // Nothing of it is on the host yet. Its memory may be what its own template needs, which
            // went missing meanwhile.
            VmPhase::Planned => (self.snapshot.template(&vm.key) == TemplateState::Missing)
                .then_some(DestroyReason::Surplus),
            VmPhase::Destroying { .. } | VmPhase::Gone { .. } => None,
            VmPhase::Starting => Some(DestroyReason::Interrupted),
            VmPhase::Activating if !self.snapshot.connected.contains(&vm.id) => {
                Some(DestroyReason::Interrupted)
            }
            VmPhase::Activating => lost,
            VmPhase::Ready if !self.snapshot.keyed.contains(&vm.id) => {
                Some(DestroyReason::Interrupted)
            }
            VmPhase::Ready => lost
                .or_else(|| {
                    self.snapshot
                        .unwell
                        .contains(&vm.id)
                        .then_some(DestroyReason::Unwell)
                })
                .or_else(|| {
                    let aged = over(vm.phase_since, self.policy.ready_max_age, self.now);
                    aged.then_some(DestroyReason::Aged)
                }),
            // Both rows change in one transaction, so this is damage; but a VM that nobody holds
            // and nothing ends would keep its memory for ever.
            VmPhase::Assigned { lease } => {
                let unheld = self.holders.get(&lease) != Some(&vm.id)
                    && !self.snapshot.busy_leases.contains(&lease);
                unheld.then_some(DestroyReason::LeaseEnded)
            }
        }
    }
}
