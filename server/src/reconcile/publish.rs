//! Tells the relay where leases lead.

use std::collections::{BTreeMap, BTreeSet};

use remote_docker_api::LeaseId;

use super::jobs::readmit;
use super::mirror::News;
use super::status::in_words;
use super::{Reconciler, Trouble, Work};
use crate::ids::VmId;
use crate::lease::{LeasePhase, VmPhase, route};
use crate::relay::{Route, Unopened};

/// How far it is with telling machines of active leases again what they may reach.
#[derive(Debug, Default)]
pub(super) struct Readmission {
    begun: bool,
    /// Those that are being told; their ports are opened afterwards.
    under_way: BTreeMap<VmId, LeaseId>,
    /// Leases whose machines were told since the last round.
    over: Vec<LeaseId>,
}

impl Readmission {
    /// A step that worked on `vm` has ended.
    pub(super) fn ended(&mut self, vm: VmId) {
        self.over.extend(self.under_way.remove(&vm));
    }
}

impl Reconciler {
    /// Tells the relay which routes there are no more and which are new. A port that another process took
    /// in the meantime is tried again in every round.
    pub(super) fn publish(&mut self, news: &News) {
        let failed = if news.all {
            let wanted = self.mirror.roster.leases();
            let wanted = wanted.filter_map(|lease| self.route_of(lease.id));
            self.published = wanted.map(|route| (route.lease, route)).collect();
            let unopened = std::mem::take(&mut self.unopened);
            let failed = self.relay.publish(self.published.values().copied());
            if failed.is_empty() && unopened.is_empty() {
                self.reservations.clear();
                return;
            }
            failed
        } else {
            let Some((closed, opened)) = self.changed_routes(news) else {
                return;
            };
            self.relay.change(&closed, opened)
        };
        // Those that were opened are the relay's now.
        self.reservations.clear();
        self.tell_unopened(failed);
    }

    /// The routes that are to be closed and to be opened, if any.
    fn changed_routes(&mut self, news: &News) -> Option<(Vec<Route>, Vec<Route>)> {
        let assigned = news.vms.iter().filter_map(|vm| self.mirror.vm(*vm));
        let assigned = assigned.filter_map(|vm| match vm.phase {
            VmPhase::Assigned { lease } => Some(lease),
            _ => None,
        });
        let mut leases: BTreeSet<LeaseId> = assigned.chain(news.leases.iter().copied()).collect();
        leases.extend(self.unopened.keys());
        leases.extend(self.readmission.over.drain(..));
        let (mut closed, mut opened) = (Vec::new(), Vec::new());
        for lease in leases {
            let wanted = self.route_of(lease);
            let known = self.published.get(&lease).copied();
            let again = self.unopened.remove(&lease).is_some();
            if known == wanted && !again {
                continue;
            }
            closed.extend(known);
            opened.extend(wanted);
            match wanted {
                Some(route) => self.published.insert(lease, route),
                None => self.published.remove(&lease),
            };
        }
        (!closed.is_empty() || !opened.is_empty()).then_some((closed, opened))
    }

    fn route_of(&self, lease: LeaseId) -> Option<Route> {
        let lease = self.mirror.roster.lease(lease)?;
        let vm = match &lease.phase {
            LeasePhase::Active(grant) => self.mirror.vm(grant.vm),
            _ => None,
        };
        if vm.is_some_and(|vm| self.readmission.under_way.contains_key(&vm.id)) {
            return None;
        }
        route(lease, vm, self.context.settings.guest_network)
    }

    /// Tells once in this process's life what the machines of active leases may reach, before their ports
    /// are opened. Their wires keep it over a restart; those that an older version made know no policy.
    pub(super) fn readmit(&mut self) {
        if std::mem::replace(&mut self.readmission.begun, true) {
            return;
        }
        let leases = self.mirror.roster.leases();
        let held = leases.filter_map(|lease| {
            let LeasePhase::Active(grant) = &lease.phase else {
                return None;
            };
            let vm = self.mirror.vm(grant.vm)?;
            let is_its_own = vm.phase == VmPhase::Assigned { lease: lease.id };
            is_its_own.then(|| (lease.id, lease.egress, vm.clone()))
        });
        for (lease, egress, vm) in held.collect::<Vec<_>>() {
            let id = vm.id;
            self.readmission.under_way.insert(id, lease);
            let job = readmit(self.context.clone(), id, egress);
            self.spawn(id, Work::Readmits, job);
        }
    }

    fn tell_unopened(&mut self, failed: Vec<Unopened>) {
        for failure in failed {
            let route = failure.route;
            let why = in_words(&failure.error);
            let words = format!(
                "{} cannot be reached: port {} cannot be opened: {why}",
                route.lease, route.port
            );
            self.unopened.insert(route.lease, words);
        }
        let words: Vec<&str> = self.unopened.values().map(String::as_str).collect();
        let words = (!words.is_empty()).then(|| words.join("; "));
        let before = self.status.borrow().troubles.get(&Trouble::Routes).cloned();
        if let Some(words) = &words
            && before.as_ref() != Some(words)
        {
            tracing::error!("{words}; it is tried again");
        }
        self.note(Trouble::Routes, words);
    }
}
