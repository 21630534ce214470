//! What can go wrong with the VMs' network.

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
        source: std::io::Error,
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
}
