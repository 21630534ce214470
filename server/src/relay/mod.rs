//! The relay: a TCP port for each active lease, whose bytes go to its guest. It knows the routes that
//! the reconciler publishes and nothing else.

use std::net::SocketAddrV4;

use remote_docker_api::LeaseId;

/// A port that leads to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Route {
    /// The lease whose holder connects here.
    pub lease: LeaseId,
    /// TCP port on the relay's listen address.
    pub port: u16,
    /// Where the bytes go.
    pub guest: SocketAddrV4,
}
