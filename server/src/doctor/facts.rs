//! What was seen of a host, before anybody judges it. Reasons are texts of one line.

use std::collections::BTreeMap;
use std::path::PathBuf;

use time::OffsetDateTime;

use crate::config::Ending;
use crate::hypervisor::trial::Versions;
use crate::pki::SanName;
use crate::tls::Inspection;

/// A look that may fail, or that may not have been taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Look<T> {
    /// This was seen.
    Seen(T),
    /// It went wrong, for this reason.
    Failed(String),
    /// It takes root, and this process has no such rights.
    TakesRoot,
}

/// Everything that was looked at.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// Whether this process runs as root.
    pub(super) is_root: bool,
    /// Whether a server runs on the state folder now.
    pub(super) server_runs: bool,
    /// Whether the guests' instructions are carried out by the processor, else why not.
    pub(super) accelerator: Look<Option<String>>,
    /// What the kernel says about machines that run machines of their own; `None` when they are not to.
    pub(super) nested: Option<Look<Nested>>,
    /// Why the QEMUs of all machines run as one user, if they do.
    pub(super) shared_user: Look<Option<String>>,
    /// What the kernel cannot hold QEMUs to, and why; `None` when it is not to.
    pub(super) control_groups: Look<Option<Vec<String>>>,
    /// What is installed.
    pub(super) versions: Look<Versions>,
    /// The folder of everything that outlives the server.
    pub(super) state: State,
    /// The guest images.
    pub(super) images: Images,
    /// What came of making a network like that of VMs.
    pub(super) network: Look<Network>,
    /// Packet filters of the host that could be in the way.
    pub(super) filters: Filters,
    /// IPv4 forwarding.
    pub(super) forwarding: Forwarding,
    /// How many name servers guests are told.
    pub(super) nameservers: usize,
    /// The disk of the state folder.
    pub(super) disk: Result<Disk, String>,
    /// The host's memory.
    pub(super) memory: Result<Memory, String>,
    /// Whether the kernel takes its clock for synchronised, and how far off it may be, in milliseconds.
    pub(super) clock: Result<Option<i64>, String>,
    /// The TCP ports of the configuration.
    pub(super) ports: Ports,
    /// What the API is to show; `None` where it speaks no TLS.
    pub(super) certificate: Option<Result<Certificate, String>>,
    /// The CI systems whose tokens are to be taken, and how many keys of each could be used.
    pub(super) issuers: Vec<(String, Result<usize, String>)>,
    /// What the site's own settings name.
    pub(super) site: Site,
}

/// Whether machines can run machines of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Nested {
    /// By the processor.
    ByProcessor,
    /// In what is emulated anyway.
    Emulated,
    /// Not, and why.
    Off(String),
}

/// What the site's own settings name.
#[derive(Debug, Clone)]
pub(super) struct Site {
    /// Files of authorities that machines trust.
    pub(super) trusted: Vec<Ending>,
    /// Servers that machines are told of.
    pub(super) named: Vec<Named>,
    /// Wall time.
    pub(super) now: OffsetDateTime,
}

/// A server that machines are told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// What it is for.
    pub(super) kind: Kind,
    /// Host and port.
    pub(super) place: String,
    /// Why it could not be connected to.
    pub(super) answer: Result<(), String>,
}

/// What a server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// `site.registry_mirrors`.
    Mirror,
    /// `site.proxy`.
    Proxy,
    /// `site.reach_on_host`.
    Port,
}

/// The certificate of the API.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    /// What there is; `None` if the first start makes it.
    pub(super) seen: Option<Inspection>,
    /// What clients are told to call the server.
    pub(super) wanted: Vec<SanName>,
    /// Wall time.
    pub(super) now: OffsetDateTime,
}

/// The state folder.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// Where it is or is to be.
    pub(super) path: PathBuf,
    /// Why libvirt could not work in a folder of this path.
    pub(super) path_fault: Option<String>,
    /// Whether it is there.
    pub(super) is_there: bool,
    /// Whether it can be written to, or made where it is not there.
    pub(super) writable: Result<(), String>,
    /// The folder above it that QEMU's user cannot pass through.
    pub(super) closed: Look<Option<PathBuf>>,
}

/// The guest images.
#[derive(Debug, Clone)]
pub(super) struct Images {
    /// Where they are looked for.
    pub(super) folder: PathBuf,
    /// Version of the engine in each, after all its files were compared with its manifest.
    pub(super) engines: Result<Vec<String>, String>,
    /// Size of the largest one's disk, in bytes.
    pub(super) largest_bytes: u64,
    /// The folder or file of them that is closed to QEMU's user.
    pub(super) closed: Look<Option<PathBuf>>,
    /// Whether sizes, engines and pools of the configuration can be had from them.
    pub(super) offers: Result<(), String>,
}

/// What came of making a network like that of VMs, in a namespace that nobody else sees.
#[derive(Debug, Clone)]
pub(super) struct Network {
    /// Kernel settings, packet filter and routes.
    pub(super) inside: Result<(), String>,
    /// A tap.
    pub(super) wire: Result<(), String>,
    /// A pair of devices between two namespaces, and the rules for it.
    pub(super) uplink: Result<(), String>,
}

/// Packet filters of the host.
#[derive(Debug, Clone)]
pub(super) struct Filters {
    /// The rules of nftables as `nft --json list ruleset` prints them.
    pub(super) nftables: Look<serde_json::Value>,
    /// What iptables' old interface, which nftables does not show, has in its chain FORWARD, as `iptables-legacy
    /// -S FORWARD` prints it; `None` when nobody uses that interface.
    pub(super) legacy: Look<Option<String>>,
    /// The device that leads to the Internet.
    pub(super) way_out: Option<String>,
}

/// IPv4 forwarding.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forwarding {
    /// Whether it is on.
    pub(super) is_on: bool,
    /// Whether this system lets somebody switch it on.
    pub(super) is_changeable: bool,
}

/// The disk of the state folder, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disk {
    /// What can still be written.
    pub(super) free: u64,
    /// What is to stay free.
    pub(super) reserve: u64,
}

/// The host's memory, in MiB.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    /// What new programs can have now.
    pub(super) available: u64,
    /// What all machines together may have.
    pub(super) budget: u64,
    /// Whether the configuration says how much that is.
    pub(super) is_configured: bool,
    /// What a machine of each size may have.
    pub(super) sizes: BTreeMap<String, u64>,
    /// Size of requests that name none.
    pub(super) default_size: String,
}

/// TCP ports that the server is to listen on.
#[derive(Debug, Clone)]
pub(super) struct Ports {
    /// The API's address and why it cannot be had.
    pub(super) api: (String, Option<String>),
    /// The range of the relay, as text with its address.
    pub(super) relay: String,
    /// How many ports are in it.
    pub(super) count: usize,
    /// Those that cannot be had, and why the first cannot.
    pub(super) taken: Option<(usize, String)>,
}
