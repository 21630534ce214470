//! Carries out what the planner decided: the quick things at once, the others as jobs.

use remote_docker_api::EndReason;
use time::OffsetDateTime;

use super::jobs::{activate, resume, start, tear_down};
use super::upkeep::Template;
use super::{Job, Reconciler, Work, jobs};
use crate::clock::random_bytes;
use crate::failpoint;
use crate::ids::VmId;
use crate::lease::{
    Action, Cause, DestroyReason, LeasePhase, LeaseRow, Policy, PoolKey, Snapshot, VmPhase, VmRow,
};
use crate::store::StoreError;

impl Reconciler {
    pub(super) async fn perform(
        &mut self,
        action: Action,
        snapshot: &Snapshot,
        policy: &Policy,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let vm = |id: VmId| snapshot.vms.iter().find(|vm| vm.id == id);
        let lease = |id| {
            snapshot
                .leases
                .iter()
                .find(|lease: &&LeaseRow| lease.id == id)
        };
        match action {
            Action::EndLease { lease: id, reason } => {
                if let Some(row) = lease(id) {
                    self.end(row, reason, now).await?;
                }
            }
            Action::FinishLease(id) => {
                if let Some(row) = lease(id)
                    && self.context.store.finish_lease(row, now).await?.is_some()
                {
                    failpoint::hit("lease-ended");
                    tracing::info!(lease = %id, "{id} has ended");
                }
            }
            Action::Warn {
                lease: id,
                of,
                cause,
            } => {
                if let Some(row) = lease(id) {
                    self.warn(row, of, cause, now).await?;
                }
            }
            Action::Assign {
                lease: id,
                vm: vm_id,
            } => {
                if let (Some(lease), Some(vm)) = (lease(id), vm(vm_id)) {
                    self.assign(lease, vm, now).await?;
                }
            }
            Action::CreateVm(key) => self.create_vm(key, snapshot, policy, now).await?,
            Action::Destroy { vm: id, reason } => {
                if let Some(row) = vm(id) {
                    self.mark_for_destruction(row, reason, now).await?;
                }
            }
            Action::Start(id) => {
                if let Some(row) = vm(id) {
                    self.start(row.clone());
                }
            }
            Action::Activate(id) => {
                if let (Some(row), Some(started)) = (vm(id), self.memory.started.get(&id)) {
                    let job = activate(self.context.clone(), row.clone(), started.clone());
                    self.spawn(id, Work::Makes, job);
                }
            }
            Action::Resume(id) => {
                let job = resume(self.context.clone(), id);
                self.spawn(id, Work::Resumes, job);
            }
            Action::TearDown(id) => {
                self.memory.forget(id);
                let job = tear_down(self.context.clone(), id, vm(id).cloned());
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
        }
        Ok(())
    }

    async fn end(
        &mut self,
        lease: &LeaseRow,
        reason: EndReason,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let detail = match (reason, &lease.phase) {
            (EndReason::StartFailed, _) => self.memory.last_words(&lease.key).map(str::to_owned),
            (EndReason::VmLost, LeasePhase::Active(grant)) => Some(self.lost(grant.vm).await),
            _ => None,
        };
        let store = &self.context.store;
        let ended = store
            .end_lease(lease, reason, detail.as_deref(), now)
            .await?;
        if ended.is_some() {
            failpoint::hit("lease-ending");
            self.metrics.lease_ended(reason);
            tracing::info!(lease = %lease.id, ?reason, "{} ends: {reason:?}", lease.id);
        }
        Ok(())
    }

    async fn warn(
        &mut self,
        lease: &LeaseRow,
        of: OffsetDateTime,
        cause: Cause,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let seconds = (of - now).whole_seconds().max(0);
        let text = match cause {
            Cause::Expiry => format!("its time is over in {seconds} s unless it is extended"),
            Cause::Idleness => format!("it ends in {seconds} s unless it is used"),
        };
        let warned = self.context.store.warn(lease, of, &text, now).await?;
        if warned.is_some() {
            tracing::info!(lease = %lease.id, "{} is warned: {text}", lease.id);
            if let LeasePhase::Active(grant) = &lease.phase {
                self.notify(grant.vm, format!("this machine: {text}"));
            }
        }
        Ok(())
    }

    async fn create_vm(
        &mut self,
        key: PoolKey,
        snapshot: &Snapshot,
        policy: &Policy,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let (Some(&memory_mib), Ok(bits)) = (policy.sizes.get(&key), random_bytes()) else {
            return Ok(());
        };
        let id = VmId::from_bits(u64::from_ne_bytes(bits));
        // The machines that become templates have no row; what they take is off the budget.
        let budget = policy.budget.without(snapshot.building_mib(policy));
        if self
            .context
            .store
            .create_vm(id, &key, memory_mib, now, &budget)
            .await?
            .is_some()
        {
            failpoint::hit("vm-created");
            tracing::info!(vm = %id, engine = key.engine, size = key.size, "{id} is planned");
        }
        Ok(())
    }

    async fn mark_for_destruction(
        &mut self,
        row: &VmRow,
        reason: DestroyReason,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        if reason == DestroyReason::Lost {
            self.lost(row.id).await;
        }
        let next = VmPhase::Destroying { reason };
        if self
            .context
            .store
            .advance_vm(row, next, now)
            .await?
            .is_some()
        {
            tracing::info!(vm = %row.id, ?reason, "{} is destroyed: {reason:?}", row.id);
        }
        Ok(())
    }

    fn start(&mut self, row: VmRow) {
        let Some(offer) = self.context.settings.offers.get(&row.key).cloned() else {
            return;
        };
        let template = match self.upkeep.get(&row.key) {
            Some(Template::Ready(files)) => Some(files.clone()),
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

    /// Has a line written on a guest's console. The loop does not wait for it, and a guest that does
    /// not do it is no trouble of anybody else.
    fn notify(&self, vm: VmId, text: String) {
        let guests = self.memory.guests.clone();
        tokio::spawn(async move {
            if let Err(error) = guests.notice(vm, text).await {
                tracing::debug!(%vm, error = &error as &dyn std::error::Error, "{vm} got no notice");
            }
        });
    }
}
