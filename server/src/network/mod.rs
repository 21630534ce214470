//! The network of the VMs: one private namespace that holds nothing but them.

mod dial;
mod error;
#[allow(dead_code, reason = "the uplink, which uses the rest, follows")]
mod links;
#[allow(dead_code, reason = "closing the network follows")]
mod namespace;
mod tap;
#[allow(dead_code, reason = "opening the network follows")]
mod wires;
mod worker;

use std::net::Ipv4Addr;

pub use dial::{Dial, DirectDialer, NamespaceDialer};
pub use error::NetworkError;
pub use namespace::Namespace;
pub use wires::Wires;

/// Hardware address of every guest. Wires are not joined to each other, so one for all does.
pub const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x00, 0x00, 0x02];
/// Hardware address of every guest's gateway.
pub const GATEWAY_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x00, 0x00, 0x01];
/// Address of every guest's gateway. It is link-local: guests reach it on their wire, and it is
/// never part of a route.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
