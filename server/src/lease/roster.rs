//! All leases and VMs by their ids, and which of them a plan has to look at.
//!
//! Most leases need nothing for most of their time: they are active, their VM is theirs, and no deadline
//! has come. A plan that looks at all others, and knows of these what they take together
//! ([`Quiet`]), is the plan that would be made from all. A look at the host concerns those of which it
//! shows something amiss (`shown.rs`). Whatever concerns all of them (a disk without its reserve, a server
//! that stops) still needs all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use remote_docker_api::LeaseId;
use time::OffsetDateTime;

use super::deadline::{self, Heard};
use super::quiet::Quiet;
use super::{Grant, LeasePhase, LeaseRow, Policy, VmPhase, VmRow};
use crate::ids::VmId;

/// The rows, kept up to date by who holds this.
#[derive(Debug, Default)]
pub struct Roster {
    vms: BTreeMap<VmId, VmRow>,
    leases: BTreeMap<LeaseId, LeaseRow>,
    /// Those that are not quiet.
    restless_vms: BTreeSet<VmId>,
    restless_leases: BTreeSet<LeaseId>,
    /// Shared with the snapshot that a plan is being made from, and with nobody while it changes.
    quiet: Arc<Quiet>,
}

/// The rows that a plan is made from.
#[derive(Debug, Default)]
pub struct Sight {
    /// VMs.
    pub vms: Vec<VmRow>,
    /// Leases.
    pub leases: Vec<LeaseRow>,
    /// What is left out of both.
    pub quiet: Arc<Quiet>,
}

impl Roster {
    /// A roster of these rows.
    #[must_use]
    pub fn new(vms: Vec<VmRow>, leases: Vec<LeaseRow>) -> Self {
        let mut roster = Self::default();
        vms.into_iter().for_each(|vm| roster.put_vm(vm));
        leases.into_iter().for_each(|lease| roster.put_lease(lease));
        roster
    }

    /// The VM with this id, if it is not gone.
    #[must_use]
    pub fn vm(&self, id: VmId) -> Option<&VmRow> {
        self.vms.get(&id)
    }

    /// The lease with this id, if it has not ended.
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<&LeaseRow> {
        self.leases.get(&id)
    }

    /// All VMs.
    pub fn vms(&self) -> impl Iterator<Item = &VmRow> {
        self.vms.values()
    }

    /// All leases.
    pub fn leases(&self) -> impl Iterator<Item = &LeaseRow> {
        self.leases.values()
    }

    /// VMs of which one of both knows another row than the other, or none.
    #[must_use]
    pub fn changed_vms(&self, other: &Self) -> BTreeSet<VmId> {
        let differs = |id: &VmId| {
            let generation = |roster: &Self| roster.vm(*id).map(|vm| vm.generation);
            generation(self) != generation(other)
        };
        let all = self.vms.keys().chain(other.vms.keys()).copied();
        all.filter(differs).collect()
    }

    /// This VM is now so; one that is gone is forgotten.
    pub fn put_vm(&mut self, row: VmRow) {
        self.stir(row.id);
        if row.phase.is_gone() {
            self.restless_vms.remove(&row.id);
            self.vms.remove(&row.id);
        } else {
            self.restless_vms.insert(row.id);
            self.vms.insert(row.id, row);
        }
    }

    /// This lease is now so; one that has ended is forgotten.
    pub fn put_lease(&mut self, row: LeaseRow) {
        self.wake(row.id);
        if matches!(row.phase, LeasePhase::Ended { .. }) {
            self.restless_leases.remove(&row.id);
            self.leases.remove(&row.id);
        } else {
            self.restless_leases.insert(row.id);
            self.leases.insert(row.id, row);
        }
    }

    /// Something about this VM is not as it was, though not its row.
    pub fn stir(&mut self, vm: VmId) {
        if let Some(VmPhase::Assigned { lease }) = self.vms.get(&vm).map(|vm| vm.phase) {
            self.wake(lease);
        }
    }

    /// Finds out who needs nothing at `now`. Of whom a deadline has come, or whose VM is among those that
    /// `need` a look, as somebody works on it or it is not as it should be, is not among them; `heard` tells
    /// what is known of the guest of a VM, and who holds this has [stirred](Self::stir) those of which that
    /// has changed.
    pub fn settle(
        &mut self,
        now: OffsetDateTime,
        need: &BTreeSet<VmId>,
        heard: impl Fn(VmId) -> Heard,
        policy: &Policy,
    ) {
        for lease in self.quiet.due(now) {
            self.wake(lease);
        }
        for vm in need {
            self.stir(*vm);
        }
        let quiet = Arc::make_mut(&mut self.quiet);
        for id in std::mem::take(&mut self.restless_leases) {
            let pair = pair(&self.vms, &self.leases, id).filter(|(.., vm)| !need.contains(&vm.id));
            let rest = pair.and_then(|(lease, grant, vm)| {
                let due = deadline::rests_until(now, lease, grant, heard(vm.id), policy)?;
                Some((lease, grant, vm, due))
            });
            match rest {
                Some((lease, grant, vm, due)) => {
                    quiet.enter(lease, grant, vm, due);
                    self.restless_vms.remove(&vm.id);
                }
                None => {
                    self.restless_leases.insert(id);
                }
            }
        }
    }

    /// What a plan has to look at when it concerns only those that are not quiet.
    #[must_use]
    pub fn restless(&self) -> Sight {
        let vms = self.restless_vms.iter().filter_map(|id| self.vms.get(id));
        let leases = &self.restless_leases;
        let leases = leases.iter().filter_map(|id| self.leases.get(id));
        Sight {
            vms: vms.cloned().collect(),
            leases: leases.cloned().collect(),
            quiet: self.quiet.clone(),
        }
    }

    /// What a plan has to look at when it concerns all.
    #[must_use]
    pub fn whole(&self) -> Sight {
        Sight {
            vms: self.vms().cloned().collect(),
            leases: self.leases().cloned().collect(),
            quiet: Arc::default(),
        }
    }

    /// This lease and its VM may need something.
    fn wake(&mut self, id: LeaseId) {
        if !self.quiet.contains(id) {
            return;
        }
        if let Some((lease, grant, vm)) = pair(&self.vms, &self.leases, id) {
            Arc::make_mut(&mut self.quiet).leave(lease, grant, vm);
            self.restless_vms.insert(vm.id);
            self.restless_leases.insert(id);
        }
    }
}

/// An active lease and its VM, if they name each other. Only such are ever quiet, and no row of a quiet
/// one changes before it is woken.
fn pair<'a>(
    vms: &'a BTreeMap<VmId, VmRow>,
    leases: &'a BTreeMap<LeaseId, LeaseRow>,
    id: LeaseId,
) -> Option<(&'a LeaseRow, &'a Grant, &'a VmRow)> {
    let lease = leases.get(&id)?;
    let LeasePhase::Active(grant) = &lease.phase else {
        return None;
    };
    let vm = vms.get(&grant.vm)?;
    (vm.phase == VmPhase::Assigned { lease: id }).then_some((lease, grant.as_ref(), vm))
}
