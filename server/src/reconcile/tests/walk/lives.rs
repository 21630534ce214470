//! All leases and machines there ever were, what was done to them, and which ends are just.

use std::collections::{BTreeMap, BTreeSet};

use remote_docker_api::{EndReason, EventKind, LeaseEvent, LeaseId};
use time::{Duration, OffsetDateTime};

use super::holder::Holder;
use crate::ids::VmId;
use crate::lease::{LeaseEnd, VmPhase, VmRow};
use crate::store::NewLease;

pub(super) struct Lives {
    pub(super) holders: BTreeMap<LeaseId, Holder>,
    /// Leases that have not ended as far as it is known.
    pub(super) going_on: BTreeSet<LeaseId>,
    /// Whom each machine serves or served.
    served: BTreeMap<VmId, LeaseId>,
    /// How far each machine that is not gone has come.
    stages: BTreeMap<VmId, u8>,
    gone: BTreeSet<VmId>,
    /// Machines that somebody stopped.
    pub(super) killed: BTreeSet<VmId>,
    /// When servers started, oldest first.
    pub(super) starts: Vec<OffsetDateTime>,
    /// When servers were told to stop, and whether they were to be drained.
    pub(super) stops: Vec<(OffsetDateTime, bool)>,
    /// Whether anything went wrong with machines that start since all was well.
    pub(super) disturbed: bool,
    /// Since when the disk has been low or may have been seen to be, since all was well.
    pub(super) low_since: Option<OffsetDateTime>,
}

impl Lives {
    pub(super) fn new() -> Self {
        Self {
            holders: BTreeMap::new(),
            going_on: BTreeSet::new(),
            served: BTreeMap::new(),
            stages: BTreeMap::new(),
            gone: BTreeSet::new(),
            killed: BTreeSet::new(),
            starts: Vec::new(),
            stops: Vec::new(),
            disturbed: false,
            low_since: None,
        }
    }

    /// 1: a machine serves one lease.
    pub(super) fn serves(&mut self, vm: VmId, lease: LeaseId) {
        let before = self.served.insert(vm, lease);
        assert!(before.is_none(), "{vm} serves {lease} after {before:?}");
    }

    /// 1, 7: a machine goes on in its life and never comes back.
    pub(super) fn see_vms(&mut self, rows: &[VmRow]) {
        let stages: BTreeMap<VmId, u8> = rows.iter().map(|vm| (vm.id, stage(vm))).collect();
        for (vm, now) in &stages {
            assert!(!self.gone.contains(vm), "{vm} was gone");
            let before = self.stages.get(vm).copied().unwrap_or_default();
            assert!(*now >= before, "{vm} went back from {before} to {now}");
        }
        let left = self.stages.keys().filter(|vm| !stages.contains_key(vm));
        self.gone.extend(left);
        self.stages = stages;
    }

    /// Panics unless a lease may have ended like this.
    pub(super) fn judge(&self, id: LeaseId, end: &LeaseEnd, events: &[LeaseEvent]) {
        let holder = &self.holders[&id];
        let told = events.iter().find(|event| event.kind == EventKind::Ending);
        let at = told.expect("an end is told").at;
        let is_told = events.iter().any(|event| event.kind == EventKind::Ready);
        assert_eq!(is_told, end.ready_at.is_some(), "{id}: {events:?}");
        let numbers = events.iter().map(|event| event.seq);
        assert!(numbers.eq(1..=events.len() as u64), "{id}: {events:?}");
        let just = match holder.wished {
            Some(wished) => end.reason == wished,
            None => self.is_just(holder, end, at),
        };
        let asked = NewLease {
            client_csr_pem: String::new(),
            ..holder.asked.clone()
        };
        assert!(
            just,
            "{id} ended at {at}: {end:?}; asked {asked:?}, wished {:?}, listening since {}",
            holder.wished,
            self.listening_since(at)
        );
    }

    fn is_just(&self, holder: &Holder, end: &LeaseEnd, at: OffsetDateTime) -> bool {
        let asked = &holder.asked;
        let vm = holder.held.as_ref().map(|held| held.vm);
        let since_asked = |moment: &OffsetDateTime| asked.created_at <= *moment && *moment <= at;
        let drained = || {
            let drains = self.stops.iter().filter(|(_, drains)| *drains);
            drains.map(|(at, _)| at).any(since_asked)
        };
        match end.reason {
            // Somebody would have wished it.
            EndReason::Released => false,
            EndReason::ClientGone => {
                let stops = self.stops.iter().map(|(at, _)| at);
                let cut = self.starts.iter().chain(stops).any(since_asked);
                asked.attended && end.ready_at.is_none() && cut
            }
            EndReason::WaitTimeout => end.ready_at.is_none() && at >= asked.wait_until,
            EndReason::StartFailed => end.ready_at.is_none() && self.disturbed,
            EndReason::Expired => end.expires_at.is_some_and(|expires_at| at >= expires_at),
            EndReason::KeepaliveMissed => {
                let silent_at = match &holder.held {
                    Some(_) => holder.silent_at(self.listening_since(at)),
                    // Nobody had seen it active.
                    None => end.ready_at,
                };
                asked.keepalive_s.is_some() && silent_at.is_some_and(|silent| at >= silent)
            }
            EndReason::Idle => self.was_idle(holder, end, at),
            EndReason::VmLost => {
                end.ready_at.is_some() && vm.is_none_or(|vm| self.killed.contains(&vm))
            }
            EndReason::DiskFull => {
                end.ready_at.is_some() && self.low_since.is_some_and(|low| at >= low)
            }
            EndReason::Drained => drained(),
        }
    }

    /// Whether the guest of a lease said so, and no time counts in which nobody could hear it.
    fn was_idle(&self, holder: &Holder, end: &LeaseEnd, at: OffsetDateTime) -> bool {
        let (Some(idle_s), Some(ready_at)) = (holder.asked.idle_s, end.ready_at) else {
            return false;
        };
        let idle = Duration::seconds(idle_s.into());
        let heard_since = self.listening_since(at).max(ready_at);
        let said = holder.held.as_ref().and_then(|held| held.most_idle());
        at - heard_since >= idle && said.is_none_or(|said| said >= idle)
    }

    /// Since when the server had listened that ended somebody for want of something at this moment.
    /// One that started at that very moment cannot have.
    fn listening_since(&self, at: OffsetDateTime) -> OffsetDateTime {
        let mut before = self.starts.iter().rev().filter(|start| **start < at);
        before.next().copied().unwrap_or(at)
    }

    /// Ports of leases that end, which nobody else may have yet.
    pub(super) fn ending_ports(&self) -> BTreeMap<LeaseId, u16> {
        let port = |id: &LeaseId| {
            let holder = &self.holders[id];
            let held = holder.held.as_ref().filter(|_| holder.end.is_some())?;
            Some((*id, held.port))
        };
        self.going_on.iter().filter_map(port).collect()
    }
}

fn stage(vm: &VmRow) -> u8 {
    match vm.phase {
        VmPhase::Planned => 1,
        VmPhase::Starting => 2,
        VmPhase::Activating => 3,
        VmPhase::Ready => 4,
        VmPhase::Assigned { .. } => 5,
        VmPhase::Destroying { .. } => 6,
        VmPhase::Gone { .. } => unreachable!("a snapshot has none that is gone"),
    }
}
