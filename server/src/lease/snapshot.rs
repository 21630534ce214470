//! What the planner is told: the facts of this moment and the rules of this server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use remote_docker_api::LeaseId;
use time::{Duration, OffsetDateTime};

use super::capacity::{Budget, Need};
use super::deadline::Heard;
use super::quiet::Quiet;
use super::quota::Quota;
use super::{LeaseRow, PoolKey, VmRow};
use crate::hypervisor::Observed;
use crate::ids::VmId;

/// All that a plan is made from.
///
/// The order of gathering matters: the sets of this process first (`busy_*`, `connected`, `keyed`),
/// then the rows, then the host. A VM whose row said *ready* and that the host did not show
/// afterwards is lost; asked in the other order it may only have been young. Rows of VMs are created
/// by the one that gathers, between two gatherings, so an observed VM without a row is an orphan.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// All VMs that are not gone, but for those of the leases that are quiet.
    pub vms: Vec<VmRow>,
    /// All leases that have not ended, but for those that are quiet.
    pub leases: Vec<LeaseRow>,
    /// Leases that need nothing now; none when what is planned concerns all.
    pub quiet: Arc<Quiet>,
    /// What the host showed; `None` when it was not or could not be asked this time. Whatever needs
    /// to know is then left for another time. It says nothing of the machines of leases that are quiet:
    /// those run. Nobody is quiet when it shows a disk without its reserve.
    pub observed: Option<Observed>,
    /// VMs with an action in flight, the machines that become templates included (they have no
    /// row). Nothing is planned for them, but for writing into the row that their time is over.
    pub busy_vms: BTreeSet<VmId>,
    /// Leases with an action in flight. Nothing is planned for them.
    pub busy_leases: BTreeSet<LeaseId>,
    /// VMs whose start this process has completed, so that it may go on with them. Empty after a
    /// restart.
    pub connected: BTreeSet<VmId>,
    /// VMs whose CA this process holds. Empty after a restart.
    pub keyed: BTreeSet<VmId>,
    /// Templates. What is not named is missing.
    pub templates: BTreeMap<PoolKey, TemplateState>,
    /// Until when nothing new is begun for a key, because its last start or template failed. Keeps a
    /// broken host from spinning.
    pub held_back: BTreeMap<PoolKey, OffsetDateTime>,
    /// When the starts of a key failed that failed in a row, oldest first; the newest few are enough.
    pub failures: BTreeMap<PoolKey, Vec<OffsetDateTime>>,
    /// Since when heartbeats can reach this process: silence before does not count.
    pub listening_since: Option<OffsetDateTime>,
    /// What the guests said last about themselves. Nothing of a guest that said nothing yet.
    pub activity: BTreeMap<VmId, Activity>,
    /// VMs whose agent or daemon has not answered for too long.
    pub unwell: BTreeSet<VmId>,
    /// How much the VMs can still write to the host's disk, in bytes, as last heard; `None` when that
    /// is not known. What a look at the host showed at the same moment as everything else is in
    /// `observed`.
    pub free_disk_bytes: Option<u64>,
}

/// What a guest said about whether it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// When it was last in use: a byte of its API moved, a container ran or a build was under way.
    pub busy_at: OffsetDateTime,
    /// When it said so. What has happened since, nobody knows.
    pub heard_at: OffsetDateTime,
}

/// How it stands with a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TemplateState {
    /// There is none that fits this host and image.
    Missing,
    /// It is being built; its VM takes up memory.
    Building,
    /// VMs can be cloned from it.
    Ready,
    /// This host cannot have it: VMs boot cold.
    Unavailable,
}

impl TemplateState {
    /// Whether it is known how VMs start: by a clone, or cold because there is no other way.
    #[must_use]
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Ready | Self::Unavailable)
    }
}

/// The rules of a server.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What all VMs together may take.
    pub budget: Budget,
    /// Every engine and size that can be had, with its memory in MiB.
    pub sizes: BTreeMap<PoolKey, u32>,
    /// What projects may hold at a time. Those that are not named may hold anything.
    pub quotas: BTreeMap<String, Quota>,
    /// How many VMs to keep ready beyond those that leases wait for.
    pub targets: BTreeMap<PoolKey, u32>,
    /// Templates to build before anybody asks for a VM of their kind.
    pub prebuild: BTreeSet<PoolKey>,
    /// How long a VM may be starting.
    pub start_deadline: Duration,
    /// How long a VM may be activating.
    pub activate_deadline: Duration,
    /// How long a ready VM that nobody needs is kept for the next lease.
    pub surplus_after: Duration,
    /// How long a ready VM may wait for its lease before another takes its place.
    pub ready_max_age: Duration,
    /// After how many starts in a row that failed a lease that waited all the while is given up.
    pub start_attempts: usize,
    /// How long before its end the holder of a lease is warned, unless the lease is shorter than twice
    /// that.
    pub warn_before: Duration,
    /// How much of the host's disk is to stay free, in bytes.
    pub disk_reserve_bytes: u64,
}

impl Snapshot {
    /// What is known of the guest of this VM and of its lease's holder.
    pub(super) fn heard(&self, vm: VmId) -> Heard {
        Heard {
            listening_since: self.listening_since,
            activity: self.activity.get(&vm).copied(),
        }
    }

    /// How it stands with the template of `key`.
    #[must_use]
    pub fn template(&self, key: &PoolKey) -> TemplateState {
        self.templates
            .get(key)
            .copied()
            .unwrap_or(TemplateState::Missing)
    }

    /// Memory in MiB that all VMs take that are not gone.
    #[must_use]
    pub fn taken_mib(&self) -> u64 {
        Need::of_all(self).mib()
    }

    /// Whether a lease has or waits for a VM of this kind.
    #[must_use]
    pub fn is_asked_for(&self, key: &PoolKey) -> bool {
        self.quiet.has_kind(key) || self.leases.iter().any(|lease| lease.key == *key)
    }

    /// Whether nothing new may be begun for `key` yet.
    #[must_use]
    pub fn is_held_back(&self, key: &PoolKey, now: OffsetDateTime) -> bool {
        self.held_back.get(key).is_some_and(|until| now < *until)
    }

    /// Memory in MiB of the machines that are becoming templates; they have no row that the store
    /// could count.
    #[must_use]
    pub fn building_mib(&self, policy: &Policy) -> u64 {
        self.templates
            .iter()
            .filter(|(_, state)| **state == TemplateState::Building)
            .filter_map(|(key, _)| policy.sizes.get(key))
            .map(|mib| u64::from(*mib))
            .sum()
    }
}
