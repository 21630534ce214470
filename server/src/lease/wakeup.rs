//! When the next deadline comes.

use time::OffsetDateTime;

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
    let leases = snapshot
        .leases
        .iter()
        .filter_map(|lease| match &lease.phase {
            LeasePhase::Waiting => Some(lease.wait_until),
            LeasePhase::Active(grant) => Some(grant.expires_at),
            LeasePhase::Ending { .. } | LeasePhase::Ended { .. } => None,
        });
    let vms = snapshot.vms.iter().filter_map(|vm| {
        let limit = match vm.phase {
            VmPhase::Starting => policy.start_deadline,
            VmPhase::Activating => policy.activate_deadline,
            VmPhase::Ready => policy.surplus_after,
            _ => return None,
        };
        vm.phase_since.checked_add(limit)
    });
    let held_back = snapshot.held_back.values().copied();
    leases
        .chain(vms)
        .chain(held_back)
        .filter(|moment| *moment > now)
        .min()
}
