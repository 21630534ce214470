//! Carries out what the planner decided: jobs are started, ports and certificates made, and all rows that
//! change are written together.

use std::collections::HashMap;

use futures_util::future::{BoxFuture, join_all};
use remote_docker_api::{EventKind, LeaseId};
use time::OffsetDateTime;

use super::jobs::{activate, admit, resume, start, tear_down};
use super::rows::{self, Wrote};
use super::upkeep::Template;
use super::{Job, Reconciler, Work, jobs};
use crate::ids::VmId;
use crate::lease::{Action, LeaseRow, Policy, Snapshot, VmRow};
use crate::store::StoreError;

/// A row on its way into the database.
pub(super) type Write = BoxFuture<'static, Result<Wrote, StoreError>>;

/// The rows that the plan was made from.
struct Seen<'a> {
    vms: HashMap<VmId, &'a VmRow>,
    leases: HashMap<LeaseId, &'a LeaseRow>,
}

impl Reconciler {
    /// Carries all of it out. Writes down `progress` of those who wait first: what the plan leads to
    /// comes after it.
    ///
    /// # Errors
    /// When the database fails; what did not fail is done.
    pub(super) async fn perform(
        &mut self,
        actions: Vec<Action>,
        progress: Vec<(LeaseId, EventKind)>,
        snapshot: &Snapshot,
        policy: &Policy,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let seen = Seen {
            vms: snapshot.vms.iter().map(|vm| (vm.id, vm)).collect(),
            leases: snapshot.leases.iter().map(|row| (row.id, row)).collect(),
        };
        // The machines that become templates have no row; what they take is off the budget.
        let budget = policy.budget.without(snapshot.building_mib(policy));
        let mut ports = self.mirror.taken_ports().clone();
        let mut writes: Vec<Write> = Vec::new();
        if !progress.is_empty() {
            writes.push(rows::progress(self.store(), progress, now));
        }
        for action in actions {
            let write = match action {
                Action::EndLease { lease, reason } => {
                    let lease = seen.leases.get(&lease);
                    lease.map(|lease| self.end(lease, reason, now))
                }
                Action::FinishLease(id) => {
                    let lease = seen.leases.get(&id);
                    lease.map(|lease| rows::finish(self.store(), lease, now))
                }
                Action::Warn { lease, of, cause } => {
                    let lease = seen.leases.get(&lease);
                    lease.map(|lease| rows::warn(self.store(), lease, of, cause, now))
                }
                Action::Assign { lease, vm } => {
                    match (seen.leases.get(&lease), seen.vms.get(&vm)) {
                        (Some(lease), Some(vm)) if self.is_admitted(lease, vm) => {
                            self.assign(lease, vm, &mut ports, now).await
                        }
                        (Some(lease), Some(vm)) => {
                            self.admit(lease, vm);
                            None
                        }
                        _ => None,
                    }
                }
                Action::CreateVm(key) => {
                    let memory_mib = policy.sizes.get(&key);
                    memory_mib.and_then(|mib| rows::create(self.store(), key, *mib, budget, now))
                }
                Action::Destroy { vm, reason } => {
                    let vm = seen.vms.get(&vm);
                    vm.map(|vm| rows::destroy(self.context.clone(), vm, reason, now))
                }
                job => {
                    self.begin(job, &seen);
                    None
                }
            };
            writes.extend(write);
        }
        let mut failed = None;
        for written in join_all(writes).await {
            match written {
                Ok(wrote) => self.has_written(wrote),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Begins what takes time.
    fn begin(&mut self, action: Action, seen: &Seen<'_>) {
        let vm = |id: &VmId| seen.vms.get(id).copied().cloned();
        match action {
            Action::Start(id) => {
                if let Some(row) = vm(&id) {
                    self.start(row);
                }
            }
            Action::Activate(id) => {
                if let (Some(row), Some(started)) = (vm(&id), self.memory.started.get(&id)) {
                    let job = activate(self.context.clone(), row, started.clone());
                    self.spawn(id, Work::Makes, job);
                }
            }
            Action::Resume(id) => {
                let job = resume(self.context.clone(), id);
                self.spawn(id, Work::Resumes, job);
            }
            Action::TearDown(id) => {
                self.memory.forget(id);
                let job = tear_down(self.context.clone(), id, vm(&id));
                self.spawn(id, Work::TakesAway, job);
            }
            Action::SweepOrphan(id) => {
                tracing::warn!(vm = %id, "{id} is on the host without a row: it is swept");
                let job = tear_down(self.context.clone(), id, None);
                self.spawn(id, Work::TakesAway, job);
            }
            Action::BuildTemplate(key) => {
                if self.build_template(&key) {
                    self.upkeep.set(key, Template::Building);
                }
            }
            // Those that write rows.
            Action::EndLease { .. }
            | Action::FinishLease(_)
            | Action::Warn { .. }
            | Action::Assign { .. }
            | Action::CreateVm(_)
            | Action::Destroy { .. } => {}
        }
    }

    fn is_admitted(&self, lease: &LeaseRow, vm: &VmRow) -> bool {
        self.memory.admitted(vm.id, lease.egress).is_some()
    }

    /// Has the machine's wire told what it may reach. Both are busy until then, and are assigned to each
    /// other afterwards. A machine that does not become this lease's after all runs nothing of anybody,
    /// and is told anew for the next.
    fn admit(&mut self, lease: &LeaseRow, vm: &VmRow) {
        self.memory.admitted.remove(&vm.id);
        let Some(keyed) = self.memory.keyed.get(&vm.id) else {
            // The plan was told of it in this very round, so this is a fault of ours.
            let (lease, vm) = (lease.id, vm.id);
            tracing::error!(%lease, %vm, "{lease} does not get {vm}: nothing is known to sign its certificate with");
            return;
        };
        let ca = keyed.ca.clone();
        let job = admit(self.context.clone(), vm.clone(), lease.clone(), ca);
        self.spawn(vm.id, Work::Admits(lease.id), job);
    }

    fn start(&mut self, row: VmRow) {
        let Some(offer) = self.context.settings.offers.get(&row.key).cloned() else {
            return;
        };
        let template = match self.upkeep.get(&row.key) {
            Some(Template::Ready(template)) => Some(template.clone()),
            Some(Template::Unavailable { .. }) => None,
            _ => return,
        };
        let id = row.id;
        self.upkeep.starts(id, template.as_ref());
        let job = start(self.context.clone(), row, offer, template);
        self.spawn(id, Work::Makes, job);
    }

    /// Runs a job beside the loop; its VM is busy until it ends.
    pub(super) fn spawn(
        &mut self,
        vm: VmId,
        work: Work,
        job: impl Future<Output = jobs::Outcome> + Send + 'static,
    ) {
        self.memory.busy_vms.insert(vm);
        let handle = self.running.spawn(job);
        self.jobs.insert(handle.id(), Job { vm, work, handle });
    }
}
