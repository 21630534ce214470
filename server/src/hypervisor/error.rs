//! What can go wrong with a hypervisor.

use std::path::PathBuf;

use crate::ids::VmId;

/// A verb of the hypervisor failed.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// libvirt refused or failed.
    #[error("libvirt could not {doing}")]
    Libvirt {
        /// What was tried.
        doing: &'static str,
        /// libvirt's answer.
        #[source]
        source: virt::error::Error,
    },
    /// A file of a VM or template could not be made, read or removed.
    #[error("could not {doing} {path}", path = path.display())]
    File {
        /// What was tried, such as `create`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The disk is full.
    #[error(
        "no space left for {path}: free some space there or move the state folder to a larger disk",
        path = path.display()
    )]
    DiskFull {
        /// The file that did not fit.
        path: PathBuf,
    },
    /// A helper program could not be run or failed.
    #[error("`{program}` failed: {detail}")]
    Program {
        /// Its name.
        program: &'static str,
        /// How it ended and the end of what it said.
        detail: String,
    },
    /// QEMU answered a monitor command with an error, or a migration failed.
    #[error("QEMU could not {doing}: {detail}")]
    Monitor {
        /// What was tried.
        doing: &'static str,
        /// QEMU's words.
        detail: String,
    },
    /// The network of the VMs failed.
    #[error("the VM's network wire could not be made or removed")]
    Network(#[from] crate::network::NetworkError),
    /// The VM does not run.
    #[error("{vm} does not run")]
    NotRunning {
        /// Which.
        vm: VmId,
    },
    /// A step took longer than it may.
    #[error("{doing} took longer than {limit_s} s")]
    Timeout {
        /// What was tried.
        doing: &'static str,
        /// The limit in seconds.
        limit_s: u64,
    },
    /// An earlier call about the same has not come back; another one would wait for the same thing.
    #[error(
        "could not {doing}: libvirt has not come back from an earlier call about the same; if it \
         never does, restart the server, whose VMs go on"
    )]
    StillStuck {
        /// What was tried.
        doing: &'static str,
    },
    /// The thread or task that should have done it ended by a fault of the server.
    #[error("the part of the server that should {doing} ended; its log says why")]
    WorkerGone {
        /// What was tried.
        doing: &'static str,
    },
    /// The host cannot run VMs with what is installed on it.
    #[error("{0}")]
    Unsuitable(String),
}
