//! What can go wrong with the VMs' network.

use std::io;
use std::net::Ipv4Addr;

/// A step on the VMs' network failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The system refused a step.
    #[error("could not {doing}")]
    System {
        /// What was tried.
        doing: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel's network configuration interface refused a step.
    #[error("could not {doing}")]
    Netlink {
        /// What was tried.
        doing: String,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// The packet filter could not be loaded.
    #[error("could not load the packet filter: {0}")]
    Filter(String),
    /// Two VMs were given the same address.
    #[error("{address} already leads to another wire than {wire}; two VMs were given one address")]
    AddressTaken {
        /// The address.
        address: Ipv4Addr,
        /// The wire that was to have it.
        wire: String,
    },
    /// All address pairs of the uplink range are in use on this host.
    #[error(
        "every pair of addresses in {range}/24 is in use on this host, so the VMs' network cannot \
         be joined to it; choose another uplink range, or no uplink"
    )]
    UplinkRangeUsedUp {
        /// First address of the range.
        range: Ipv4Addr,
    },
    /// A thread of this room ended early.
    #[error("the thread that works in the VMs' network namespace is gone; restart the server")]
    WorkerGone,
}

impl NetworkError {
    /// For `map_err`: wraps a system error with what was being done.
    pub(super) fn system<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        let doing = doing.into();
        move |source| Self::System {
            doing,
            source: source.into(),
        }
    }

    /// For `map_err`: wraps the kernel's answer with what was being done.
    pub(super) fn netlink(doing: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Netlink { doing, source }
    }
}
