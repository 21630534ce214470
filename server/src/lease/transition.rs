//! The legal transitions: the diagram of this room as a function. The store asks it before every
//! write, so that an illegal one becomes an error and never a row.

use super::{LeasePhase, VmPhase};

/// A change of phase that the diagram does not have. A bug of the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot go from {from} to {to}")]
pub struct IllegalTransition {
    what: &'static str,
    from: String,
    to: String,
}

/// Whether a VM may go from one phase to the other.
///
/// # Errors
/// When the diagram has no such arrow, or the arrow would change why the VM was destroyed.
pub fn check_vm(from: &VmPhase, to: &VmPhase) -> Result<(), IllegalTransition> {
    use VmPhase::{Activating, Assigned, Destroying, Gone, Planned, Ready, Starting};
    let legal = match (from, to) {
        (Planned, Starting) | (Starting, Activating) | (Activating, Ready) => true,
        (Ready, Assigned { .. }) => true,
        (Planned | Starting | Activating | Ready | Assigned { .. }, Destroying { .. }) => true,
        (Destroying { reason }, Gone { reason: kept }) => reason == kept,
        _ => false,
    };
    legal.then_some(()).ok_or_else(|| IllegalTransition {
        what: "a VM",
        from: format!("{from:?}"),
        to: format!("{to:?}"),
    })
}

/// Whether a lease may go from one phase to the other.
///
/// # Errors
/// When the diagram has no such arrow, or the arrow would lose which VM the lease had or why it
/// ends.
pub fn check_lease(from: &LeasePhase, to: &LeasePhase) -> Result<(), IllegalTransition> {
    use LeasePhase::{Active, Ended, Ending, Waiting};
    let legal = match (from, to) {
        (Waiting, Active(_)) => true,
        (Waiting, Ending { end, vm }) => {
            vm.is_none() && end.ready_at.is_none() && end.expires_at.is_none()
        }
        (Active(grant), Ending { end, vm }) => {
            *vm == Some(grant.vm)
                && end.ready_at == Some(grant.ready_at)
                && end.expires_at == Some(grant.expires_at)
        }
        (Ending { end, .. }, Ended { end: kept, .. }) => end == kept,
        _ => false,
    };
    legal.then_some(()).ok_or_else(|| IllegalTransition {
        what: "a lease",
        from: lease_phase_name(from).to_owned(),
        to: lease_phase_name(to).to_owned(),
    })
}

/// Certificates are no secret, but they have no place in an error either.
fn lease_phase_name(phase: &LeasePhase) -> &'static str {
    match phase {
        LeasePhase::Waiting => "Waiting",
        LeasePhase::Active(_) => "Active",
        LeasePhase::Ending { .. } => "Ending",
        LeasePhase::Ended { .. } => "Ended",
    }
}
