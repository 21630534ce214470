//! Leases that need nothing until their next deadline: what the planner has to know of them together,
//! so that it need not look at each.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use remote_docker_api::LeaseId;
use time::OffsetDateTime;

use super::capacity::Need;
use super::quota::Held;
use super::{Grant, LeaseRow, PoolKey, VmRow};
use crate::ids::VmId;

/// Active leases with their assigned VMs for which nothing is due.
#[derive(Debug, Clone, Default)]
pub struct Quiet {
    members: HashMap<LeaseId, OffsetDateTime>,
    need: Need,
    /// When the next of them may need something.
    due: BTreeSet<(OffsetDateTime, LeaseId)>,
    /// What comes free when each lasts as long as it may, by when.
    ends: BTreeMap<(OffsetDateTime, VmId), Need>,
    /// Those of each project, in the order in which they were asked for.
    projects: BTreeMap<String, BTreeSet<(OffsetDateTime, LeaseId)>>,
    /// What those of each project take together.
    held: BTreeMap<String, Held>,
    /// How many there are of each kind.
    kinds: BTreeMap<PoolKey, usize>,
}

impl Quiet {
    /// What their VMs take.
    pub(super) fn need(&self) -> Need {
        self.need
    }

    /// What comes free when each lasts as long as it may, the soonest first.
    pub(super) fn ends(&self) -> impl Iterator<Item = (OffsetDateTime, Need)> {
        self.ends.iter().map(|((at, _), need)| (*at, *need))
    }

    /// How many of a project were asked for before this one. Takes as long as many were asked for
    /// after it.
    pub(super) fn before(&self, lease: &LeaseRow) -> usize {
        self.projects.get(&lease.project).map_or(0, |all| {
            all.len() - all.range((lease.created_at, lease.id)..).count()
        })
    }

    /// What those of a project take together.
    pub(super) fn held_by(&self, project: &str) -> Held {
        self.held.get(project).copied().unwrap_or_default()
    }

    /// Whether one of them has a VM of this kind.
    pub(super) fn has_kind(&self, key: &PoolKey) -> bool {
        self.kinds.contains_key(key)
    }

    /// The first moment at which one of them may need something.
    pub(super) fn next_due(&self) -> Option<OffsetDateTime> {
        self.due.first().map(|(at, _)| *at)
    }

    pub(super) fn contains(&self, lease: LeaseId) -> bool {
        self.members.contains_key(&lease)
    }

    /// Those that may need something at `now`.
    pub(super) fn due(&self, now: OffsetDateTime) -> Vec<LeaseId> {
        let due = self.due.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, lease)| *lease).collect()
    }

    /// Takes a lease in that needs nothing before `due`.
    pub(super) fn enter(
        &mut self,
        lease: &LeaseRow,
        grant: &Grant,
        vm: &VmRow,
        due: OffsetDateTime,
    ) {
        let need = Need::vm(vm.memory_mib);
        self.members.insert(lease.id, due);
        self.due.insert((due, lease.id));
        self.need = self.need.and(need);
        self.ends.insert((grant.expires_at, vm.id), need);
        let project = self.projects.entry(lease.project.clone()).or_default();
        project.insert((lease.created_at, lease.id));
        let held = self.held.entry(lease.project.clone()).or_default();
        *held = held.and(Held::one(vm.memory_mib));
        *self.kinds.entry(lease.key.clone()).or_default() += 1;
    }

    /// Takes a lease out; the rows are those with which it came in.
    pub(super) fn leave(&mut self, lease: &LeaseRow, grant: &Grant, vm: &VmRow) {
        let Some(due) = self.members.remove(&lease.id) else {
            return;
        };
        self.due.remove(&(due, lease.id));
        self.need = self.need.after(Need::vm(vm.memory_mib));
        self.ends.remove(&(grant.expires_at, vm.id));
        if let Some(project) = self.projects.get_mut(&lease.project) {
            project.remove(&(lease.created_at, lease.id));
            if project.is_empty() {
                self.projects.remove(&lease.project);
            }
        }
        if let Some(held) = self.held.get_mut(&lease.project) {
            *held = held.after(Held::one(vm.memory_mib));
            if *held == Held::default() {
                self.held.remove(&lease.project);
            }
        }
        if let Some(count) = self.kinds.get_mut(&lease.key) {
            *count -= 1;
            if *count == 0 {
                self.kinds.remove(&lease.key);
            }
        }
    }
}
