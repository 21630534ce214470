//! The network of the VMs: one private namespace that holds nothing but them.
//!
//! ```text
//!   host's namespace                 VMs' namespace
//!   ┌───────────────┐  veth pair  ┌───────────────────────────────┐
//!   │ relay    ru…  ├─────────────┤ uplink      rd…  rd…  rd…     │   one tap ("wire") per VM,
//!   └───────────────┘             │   (filter, masquerade)        │   no bridge between them
//!      └ dials by a thread that ──▶ entered this namespace        │
//!                                 └───────────────────────────────┘
//! ```
//!
//! All names derive from the installation's id. Everything is made idempotently, so that a server
//! that starts finds, repairs and takes over what an earlier one left.

mod dial;
mod error;
mod links;
mod namespace;
mod nft;
mod open;
mod resolvers;
mod rules;
mod sysctl;
mod tap;
#[cfg(test)]
mod tests;
mod trial;
mod uplink;
mod wires;
mod worker;

use std::net::Ipv4Addr;

pub use dial::{Dial, DirectDialer, NamespaceDialer, guest_socket};
pub use error::NetworkError;
pub use namespace::Namespace;
pub use open::{Network, NetworkConfig, Uplink};
pub use resolvers::host_resolvers;
pub(crate) use rules::NEVER;
pub use trial::{Trial, try_out};
pub use wires::Wires;

/// Hardware address of every guest. Wires are not joined to each other, so one for all does.
pub const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x00, 0x00, 0x02];
/// Hardware address of every guest's gateway.
pub const GATEWAY_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x00, 0x00, 0x01];
/// Address of every guest's gateway. It is link-local: guests reach it on their wire, and it is
/// never part of a route.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
