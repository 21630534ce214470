//! Everything is made well; the server must come to rest, with nothing undone.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use remote_docker_api::EndReason;
use time::OffsetDateTime;

use super::holder::brief;
use super::world::{DISK, PATIENCE, World};
use crate::hypervisor::sim::Manners;
use crate::lease::{LeasePhase, LeaseRow, VmPhase, VmRow};
use crate::reconcile::Trouble;

/// How long the server may take to come to rest, on its own clock: the longest that anything rests
/// that failed, twice, and some.
const LIMIT: time::Duration = time::Duration::minutes(5);

/// How long after its guest fell idle a lease may go on: its guest is asked every fifteen seconds, and
/// the loop goes round every five.
const HEARD_WITHIN: time::Duration = time::Duration::seconds(45);

impl World {
    /// Makes everything well and waits until the server has come to rest.
    pub(super) async fn rest(&mut self) {
        self.heal();
        self.come_to_rest(Self::unrest).await;
        // What was wrong was so before whatever comes now.
        self.advance(Duration::from_millis(1)).await;
        self.lives.disturbed = false;
        // Machines that stood still have written what they had waited to write, and may have filled the
        // disk with it.
        self.lives.low_since = None;
        self.is_it_low();
        self.tally.rests += 1;
    }

    /// Has every lease end and everything go; nothing may be left.
    pub(super) async fn end(&mut self) {
        self.rest().await;
        // Half of them are left to their deadlines.
        let going_on: Vec<_> = self.lives.going_on.iter().copied().collect();
        for id in going_on {
            if self.dice.percent(50) {
                self.wish(id, EndReason::Released).await;
            }
        }
        self.stop().await;
        self.start_with(0).await;
        while let Some(until) = self.leases.iter().filter_map(last_moment).max() {
            let rest = Duration::try_from(until - self.now()).unwrap_or_default();
            self.advance(rest + Duration::from_secs(1)).await;
            self.rest().await;
        }
        self.come_to_rest(Self::presence).await;
        self.stop().await;
        assert_eq!(self.sim.vms(), [], "the host is not empty");
        assert!(self.vms.is_empty() && self.leases.is_empty());
        let mut ports = self.settings.ports.clone();
        assert!(ports.all(|port| !self.is_open(port)), "a port is open");
        assert_eq!(
            self.half_built_templates(),
            Vec::<std::path::PathBuf>::new()
        );
    }

    fn heal(&mut self) {
        self.healed_at = self.now();
        self.sim.lift_all();
        self.sim.let_go();
        self.sim.set_free_disk(DISK);
        for vm in self.sim.vms() {
            self.sim.behave(vm, Manners::Good);
            self.sim.guest(vm, |guest| guest.docker_answers = true);
        }
    }

    async fn come_to_rest(&mut self, unrest: fn(&Self) -> Option<String>) {
        let (began, really_began) = (self.now(), Instant::now());
        loop {
            self.round().await;
            self.look().await;
            let Some(why) = unrest(self) else { return };
            let took = self.now() - began;
            assert!(
                took < LIMIT && really_began.elapsed() < PATIENCE,
                "no rest after {took}: {why}; host {:?}; rows {:?}; leases {:?}; {:?}",
                self.sim.vms(),
                self.vms,
                self.leases.iter().map(brief).collect::<Vec<_>>(),
                self.status(),
            );
            self.advance(Duration::from_secs(1)).await;
        }
    }

    /// What is still there.
    fn presence(&self) -> Option<String> {
        let is_empty = self.vms.is_empty() && self.leases.is_empty() && self.sim.vms().is_empty();
        (!is_empty).then(|| "something is left".to_owned())
    }

    /// What the server still has to do, or to notice.
    fn unrest(&self) -> Option<String> {
        self.unrest_of_vms()
            .or_else(|| self.leases.iter().find_map(|lease| self.unrest_of(lease)))
            .or_else(|| self.unrest_of_queue())
            .or_else(|| self.unrest_of_server())
    }

    fn unrest_of_vms(&self) -> Option<String> {
        let calm = |vm: &&VmRow| matches!(vm.phase, VmPhase::Ready | VmPhase::Assigned { .. });
        if let Some(vm) = self.vms.iter().find(|vm| !calm(vm)) {
            return Some(format!("{} is {:?}", vm.id, vm.phase));
        }
        let rows: BTreeSet<_> = self.vms.iter().map(|vm| vm.id).collect();
        let running = self.sim.running();
        let all: BTreeSet<_> = self.sim.vms().into_iter().collect();
        if rows != running || rows != all {
            return Some(format!("rows {rows:?}, running {running:?}, all {all:?}"));
        }
        let stalled = rows.into_iter().find(|vm| self.sim.is_stalled(*vm))?;
        Some(format!("{stalled} stands still"))
    }

    fn unrest_of(&self, lease: &LeaseRow) -> Option<String> {
        let now = self.now();
        let holder = &self.lives.holders[&lease.id];
        let started = *self.lives.starts.last()?;
        let overdue = match &lease.phase {
            _ if lease.end_wish.is_some() => true,
            LeasePhase::Waiting => now >= lease.wait_until,
            LeasePhase::Active(grant) => {
                let silent = holder
                    .silent_at(started)
                    .is_some_and(|silent| now >= silent);
                now >= grant.expires_at || silent || self.is_idle_for_too_long(lease, started)
            }
            LeasePhase::Ending { .. } | LeasePhase::Ended { .. } => true,
        };
        overdue.then(|| format!("overdue: {}", brief(lease)))
    }

    /// Whether its guest can only have told for long that it is idle.
    fn is_idle_for_too_long(&self, lease: &LeaseRow, started: OffsetDateTime) -> bool {
        let LeasePhase::Active(grant) = &lease.phase else {
            return false;
        };
        let Some(idle_s) = lease.idle_s else {
            return false;
        };
        let idle_since = self.sim.guest(grant.vm, |guest| {
            let is_idle = !guest.activity.works() && !self.foul.contains(&grant.vm);
            is_idle.then_some(guest.used_at.unwrap_or(grant.ready_at))
        });
        let Some(idle_since) = idle_since.flatten() else {
            return false;
        };
        let heard_since = idle_since
            .max(grant.ready_at)
            .max(started)
            .max(self.healed_at);
        self.now() - heard_since >= time::Duration::seconds(idle_s.into()) + HEARD_WITHIN
    }

    /// Who waits although there is a machine for it, or room for one.
    fn unrest_of_queue(&self) -> Option<String> {
        let lasting = self.leases.iter();
        let mut waiting: Vec<(usize, &LeaseRow)> = lasting
            .filter(|lease| lease.phase == LeasePhase::Waiting)
            .map(|lease| (super::checks::place(lease, &self.leases, |_| true), lease))
            .collect();
        waiting.sort_by_key(|(place, lease)| (*place, lease.created_at, lease.id));
        let ready = || self.vms.iter().filter(|vm| vm.phase == VmPhase::Ready);
        let waiting: Vec<_> = waiting.into_iter().map(|(_, lease)| lease).collect();
        let policy = &self.settings.policy;
        let waiting = super::checks::within_quota(&waiting, &self.leases, policy);
        for lease in &waiting {
            if ready().any(|vm| vm.key == lease.key) {
                return Some(format!("there is a machine for {}", lease.id));
            }
        }
        let first = waiting.first()?;
        let budget = policy.budget;
        // What nobody has makes way.
        let kept = self.vms.iter().filter(|vm| vm.phase != VmPhase::Ready);
        let taken: u64 = kept.clone().map(|vm| u64::from(vm.memory_mib)).sum();
        let needed = u64::from(policy.sizes[&first.key]);
        let fits = taken + needed <= budget.memory_mib && kept.count() < budget.slots.into();
        fits.then(|| format!("there is room for {}", first.id))
    }

    fn unrest_of_server(&self) -> Option<String> {
        let status = self.status();
        // A kind of machine that nobody wants any more goes on having failed.
        let lasts = |trouble: &&Trouble| !matches!(trouble, Trouble::Starts(_));
        if let Some(trouble) = status.troubles.keys().find(lasts) {
            return Some(format!("{trouble:?}"));
        }
        // 6.
        let active: BTreeSet<u16> = self
            .leases
            .iter()
            .filter_map(|lease| match &lease.phase {
                LeasePhase::Active(grant) => Some(grant.port),
                _ => None,
            })
            .collect();
        let mut ports = self.settings.ports.clone();
        let wrong = ports.find(|port| self.is_open(*port) != active.contains(port))?;
        Some(format!("port {wrong}; active {active:?}"))
    }
}

/// When this lease ends at the latest.
fn last_moment(lease: &LeaseRow) -> Option<OffsetDateTime> {
    match &lease.phase {
        LeasePhase::Waiting => Some(lease.wait_until),
        LeasePhase::Active(grant) => Some(grant.expires_at),
        LeasePhase::Ending { .. } | LeasePhase::Ended { .. } => None,
    }
}
