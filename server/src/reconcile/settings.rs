//! What the reconciler is told once, at the start of the server.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use guest_protocol::Site;

use crate::calendar::Calendar;
use crate::hypervisor::ImageFiles;
use crate::lease::{Policy, PoolKey};
use crate::pki::SanName;
use crate::seen::Seen;

/// Settings of a reconciler.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The rules that the planner goes by.
    pub policy: Policy,
    /// How many machines are to be ready at which time.
    pub calendar: Calendar,
    /// What can be leased.
    pub offers: BTreeMap<PoolKey, Offer>,
    /// First address of the guests' network, a /16.
    pub guest_network: Ipv4Addr,
    /// DNS servers of the guests.
    pub nameservers: Vec<Ipv4Addr>,
    /// What the site wants of its guests' Docker daemons.
    pub site: Arc<Site>,
    /// TCP ports of the relay, one for each active lease.
    pub ports: RangeInclusive<u16>,
    /// Names under which clients reach the relay; they stand in the guests' certificates.
    pub server_names: Vec<SanName>,
    /// The longest a lease may last; certificates are good a little longer.
    pub longest_lease: Duration,
    /// Whether VMs are cloned from templates; without, they boot cold.
    pub templates: bool,
    /// How guests are watched.
    pub watching: Watching,
    /// What becomes of leases when the server is told to stop: without it they stay for its next
    /// start, with it they may go on for so long and then end.
    pub drain: Option<Duration>,
}

/// How guests that are ready or handed out are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watching {
    /// How often a guest is asked how it is; the guest of a lease that may be idle for a short time
    /// only is asked more often.
    pub period: Duration,
    /// How long an agent may take to answer.
    pub patience: Duration,
    /// After how many questions in a row without an answer a guest is unwell.
    pub misses: u32,
    /// How long the Docker daemon may give no answer before its guest is unwell.
    pub docker_patience: Duration,
}

impl Default for Watching {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(15),
            patience: Duration::from_secs(10),
            misses: 3,
            docker_patience: Duration::from_secs(60),
        }
    }
}

/// One kind of VM that can be leased.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Digest of the image.
    pub image_digest: String,
    /// Files of the image.
    pub image: ImageFiles,
    /// The very files that were checked.
    pub image_seen: Seen,
    /// Number of virtual processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
}
