//! Finding domains, and telling ours from others'.

use virt::connect::Connect;
use virt::domain::{
    Domain, DomainPausedReason, DomainState, DomainStateEnum, DomainStateReason,
    DomainStateReasonEnum,
};
use virt::enumutil::Enum;
use virt::error::{Error, ErrorNumber};
use virt::sys;

use super::LibvirtError;
use crate::hypervisor::HypervisorError;
use crate::hypervisor::domain_xml::{METADATA_NAMESPACE, Owner};
use crate::ids::InstallId;

/// What is found under a VM's name.
#[derive(Debug)]
pub(super) enum Found {
    /// The VM's domain.
    Ours(Domain),
    /// A domain that somebody else made.
    Foreign,
    /// Nothing.
    Nothing,
}

/// Looks for the VM's domain.
///
/// # Errors
/// When libvirt cannot tell.
pub(super) fn find(connect: &Connect, owner: Owner) -> Result<Found, HypervisorError> {
    let domain = match connect.lookup_domain_by_name(&owner.vm.to_string()) {
        Ok(domain) => domain,
        Err(error) if is(&error, ErrorNumber::NoDomain) => return Ok(Found::Nothing),
        Err(error) => return Err(error).doing("look for the VM"),
    };
    Ok(match owner_of(&domain)? {
        Some(found) if found == owner => Found::Ours(domain),
        Some(_) => Found::Foreign,
        // It may also have vanished just now.
        None if exists(connect, owner)? => Found::Foreign,
        None => Found::Nothing,
    })
}

/// All domains of this installation.
///
/// # Errors
/// When libvirt cannot tell.
pub(super) fn ours(
    connect: &Connect,
    install: InstallId,
) -> Result<Vec<(Owner, Domain)>, HypervisorError> {
    let mut found = Vec::new();
    for domain in connect.list_all_domains(0).doing("list the VMs")? {
        if let Some(owner) = owner_of(&domain)?.filter(|owner| owner.install == install) {
            found.push((owner, domain));
        }
    }
    Ok(found)
}

/// What a domain's processors do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// They run.
    Runs,
    /// QEMU stopped them because the host's disk did not take what the guest wrote.
    Stalled,
    /// Nothing; also when the domain has vanished.
    Still,
}

/// What the domain's processors do.
///
/// # Errors
/// When libvirt cannot tell.
pub(super) fn condition(domain: &Domain) -> Result<Condition, HypervisorError> {
    // `state` rather than `info`: it never waits for QEMU, which may be stuck.
    let state = domain.state().doing("ask for the VM's state")?;
    if state.0.is_known() {
        return Ok(judge(&state));
    }
    // The binding makes an unknown state of an error; this question has its error.
    match domain.is_active() {
        Ok(true) => Ok(Condition::Runs),
        Ok(false) => Ok(Condition::Still),
        // It ended between being found and being asked.
        Err(error) if is(&error, ErrorNumber::NoDomain) => Ok(Condition::Still),
        Err(error) => Err(error).doing("ask for the VM's state"),
    }
}

fn judge((state, reason): &(DomainStateEnum, DomainStateReasonEnum)) -> Condition {
    if state.is_any(vec![DomainState::Running, DomainState::Blocked]) {
        return Condition::Runs;
    }
    match reason {
        Enum::Known(DomainStateReason::Paused(Enum::Known(DomainPausedReason::IOError))) => {
            Condition::Stalled
        }
        _ => Condition::Still,
    }
}

/// Whether the domain's processors run.
///
/// # Errors
/// When libvirt cannot tell.
pub(super) fn runs(domain: &Domain) -> Result<bool, HypervisorError> {
    Ok(condition(domain)? == Condition::Runs)
}

/// Whether libvirt's error is this one.
pub(super) fn is(error: &Error, number: ErrorNumber) -> bool {
    error.code().is(number)
}

fn owner_of(domain: &Domain) -> Result<Option<Owner>, HypervisorError> {
    let kind = i32::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).unwrap_or(i32::MAX);
    match domain.metadata(kind, Some(METADATA_NAMESPACE), 0) {
        Ok(element) => Ok(Owner::from_metadata(&element)),
        Err(error)
            if is(&error, ErrorNumber::NoDomainMetadata) || is(&error, ErrorNumber::NoDomain) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).doing("ask whose VM it is"),
    }
}

fn exists(connect: &Connect, owner: Owner) -> Result<bool, HypervisorError> {
    match connect.lookup_domain_by_name(&owner.vm.to_string()) {
        Ok(_) => Ok(true),
        Err(error) if is(&error, ErrorNumber::NoDomain) => Ok(false),
        Err(error) => Err(error).doing("look for the VM"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "libvirt's own simulator, in this process"
    )]
    fn a_domain_that_has_vanished_does_not_run() {
        let connect = Connect::open(Some("test:///default")).unwrap();
        let domain = connect.lookup_domain_by_name("test").unwrap();
        assert!(runs(&domain).unwrap());
        domain.destroy().unwrap();
        assert!(!runs(&domain).unwrap());
        domain.undefine().unwrap();
        assert!(!runs(&domain).unwrap());
    }

    #[test]
    fn only_a_machine_that_waits_for_the_disk_is_stalled() {
        let paused = |why| {
            let reason = DomainStateReason::Paused(Enum::Known(why));
            judge(&(Enum::Known(DomainState::Paused), Enum::Known(reason)))
        };
        assert_eq!(paused(DomainPausedReason::IOError), Condition::Stalled);
        for other in [DomainPausedReason::User, DomainPausedReason::Migration] {
            assert_eq!(paused(other), Condition::Still);
        }
        // The numbers of the reasons mean something else in other states.
        let other = |state| judge(&(Enum::Known(state), Enum::Unknown(5)));
        assert_eq!(other(DomainState::Running), Condition::Runs);
        assert_eq!(other(DomainState::Shutoff), Condition::Still);
        assert_eq!(other(DomainState::Paused), Condition::Still);
    }
}
