//! What a round plans for, and by which rules.

use std::collections::BTreeSet;

use remote_docker_api::LeaseId;
use time::OffsetDateTime;

use super::closing::Course;
use super::{Reconciler, Work};
use crate::ids::VmId;
use crate::lease::{Heard, Policy, Shown, Sight, Snapshot};

/// VMs and leases that a step works on.
pub(super) type Busy = (BTreeSet<VmId>, BTreeSet<LeaseId>);

impl Reconciler {
    /// What this process's steps work on, and what is left alone for a while.
    pub(super) fn busy(&self, now: OffsetDateTime) -> Busy {
        let mut vms = self.memory.busy_vms.clone();
        // Those that could not be destroyed are left alone for a while.
        vms.extend(self.memory.resting(now));
        let leases = self.jobs.values().filter_map(|job| match job.work {
            Work::Admits(lease) => Some(lease),
            _ => None,
        });
        (vms, leases.collect())
    }

    /// The rules of this moment, before the server's own end is thought of.
    pub(super) fn policy(&self) -> Policy {
        let mut policy = self.context.settings.policy.clone();
        // A calendar is about the time of people.
        let wall = self.context.clock.wall();
        let targets = self.context.settings.calendar.targets(wall);
        policy.targets.extend(targets);
        let rebuilding_mib = self.upkeep.rebuilding_mib(&policy);
        policy.budget = policy.budget.without(rebuilding_mib);
        policy
    }

    /// What is to be planned for: leases and VMs that may need something, and all of them where a look
    /// that was `shown`, or the server's course, concerns all.
    pub(super) fn snapshot(
        &mut self,
        shown: Option<Shown>,
        (busy_vms, busy_leases): Busy,
        policy: &Policy,
        now: OffsetDateTime,
    ) -> Snapshot {
        let Self {
            context,
            course,
            memory,
            mirror,
            ..
        } = self;
        let roster = &mut mirror.roster;
        for vm in std::mem::take(&mut memory.stirred) {
            roster.stir(vm);
        }
        // While the database took none, none could come either.
        let unwritten = context.store.unwritten_heartbeat_at();
        let listening_since = unwritten.max(Some(self.listening_since));
        let heard = |vm| Heard {
            listening_since,
            activity: memory.activity.get(&vm).copied(),
        };
        let mut need = busy_vms.clone();
        need.extend(shown.iter().flat_map(Shown::amiss));
        roster.settle(now, &need, heard, policy);
        let of_all = shown.as_ref().is_some_and(|it| it.concerns_all(policy));
        let Sight { vms, leases, quiet } = if of_all || *course != Course::Serving {
            roster.whole()
        } else {
            roster.restless()
        };
        let observed = shown.map(|shown| shown.of(&vms));
        #[cfg(test)]
        self.most_planned.fetch_max(
            vms.len() + leases.len(),
            std::sync::atomic::Ordering::Relaxed,
        );
        let known = |vm: VmId| Some((vm, *memory.activity.get(&vm)?));
        let activity = vms.iter().filter_map(|vm| known(vm.id)).collect();
        Snapshot {
            vms,
            leases,
            quiet,
            observed,
            busy_vms,
            busy_leases,
            connected: memory.started.keys().copied().collect(),
            keyed: memory.keyed.keys().copied().collect(),
            templates: self.upkeep.states(),
            held_back: memory.held_back(),
            free_disk_bytes: self.disk.free(),
            activity,
            failures: memory.failures(),
            listening_since,
            unwell: memory.unwell.clone(),
        }
    }
}
