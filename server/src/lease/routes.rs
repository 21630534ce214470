//! Which ports lead where.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{LeasePhase, LeaseRow, VmPhase, VmRow};
use crate::relay::Route;

/// Where the port of this lease leads, if it has one: only an active lease has a route, and only to a
/// VM that is assigned to it. `vm` is the VM that the lease names, and `guest_network` the first address
/// of the guests' network.
#[must_use]
pub fn route(lease: &LeaseRow, vm: Option<&VmRow>, guest_network: Ipv4Addr) -> Option<Route> {
    let LeasePhase::Active(grant) = &lease.phase else {
        return None;
    };
    // A slot that was given on to another VM must not be reached by way of this lease.
    let vm = vm.filter(|vm| vm.phase == VmPhase::Assigned { lease: lease.id })?;
    let address = vm.slot.address(guest_network);
    Some(Route {
        lease: lease.id,
        port: grant.port,
        guest: SocketAddrV4::new(address, guest_protocol::DOCKER_PORT),
    })
}
