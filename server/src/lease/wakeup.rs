//! When the next deadline comes.

use time::OffsetDateTime;

use super::deadline;
use super::snapshot::{Policy, Snapshot};
use super::{LeasePhase, VmPhase};

/// The earliest moment after `now` at which time alone changes the plan; `None` when only an event
/// can. What was already due is in the plan of `now`.
#[must_use]
pub fn next_wakeup(
    now: OffsetDateTime,
    snapshot: &Snapshot,
    policy: &Policy,
) -> Option<OffsetDateTime> {
    let leases = snapshot.leases.iter().flat_map(|lease| match &lease.phase {
        LeasePhase::Waiting => [Some(lease.wait_until), None, None],
        // Idleness is not among them: only what a guest says can tell.
        LeasePhase::Active(grant) => [
            Some(grant.expires_at),
            deadline::heartbeat_due(lease, grant, snapshot.heard(grant.vm)),
            deadline::next_warning(lease, grant, snapshot.heard(grant.vm), policy),
        ],
        LeasePhase::Ending { .. } | LeasePhase::Ended { .. } => [None; 3],
    });
    let vms = snapshot.vms.iter().flat_map(|vm| {
        let limits = match vm.phase {
            VmPhase::Starting => [Some(policy.start_deadline), None],
            VmPhase::Activating => [Some(policy.activate_deadline), None],
            VmPhase::Ready => [Some(policy.surplus_after), Some(policy.ready_max_age)],
            _ => [None; 2],
        };
        limits.map(|limit| vm.phase_since.checked_add(limit?))
    });
    let held_back = snapshot.held_back.values().copied();
    leases
        .chain(vms)
        .flatten()
        .chain(held_back)
        .chain(snapshot.quiet.next_due())
        .filter(|moment| *moment > now)
        .min()
}
