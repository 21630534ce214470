//! Which ports lead where.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{LeasePhase, LeaseRow, VmPhase, VmRow};
use crate::relay::Route;

/// One route for each lease that is active, and none for any other. `guest_network` is the first
/// address of the guests' network.
#[must_use]
pub fn routes(leases: &[LeaseRow], vms: &[VmRow], guest_network: Ipv4Addr) -> Vec<Route> {
    leases
        .iter()
        .filter_map(|lease| {
            let LeasePhase::Active(grant) = &lease.phase else {
                return None;
            };
            // A slot that was given on to another VM must not be reached by way of this lease.
            let vm = vms.iter().find(|vm| {
                vm.id == grant.vm && vm.phase == (VmPhase::Assigned { lease: lease.id })
            })?;
            Some(Route {
                lease: lease.id,
                port: grant.port,
                guest: SocketAddrV4::new(
                    vm.slot.address(guest_network),
                    guest_protocol::DOCKER_PORT,
                ),
            })
        })
        .collect()
}
