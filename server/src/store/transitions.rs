//! The transitions of a lease, each together with that of its VM.

use remote_docker_api::{EndReason, EventKind, LeaseId};
use rusqlite::params;
use time::OffsetDateTime;

use super::columns::{kept, micros};
use super::leases::json;
use super::rows::{self, state};
use super::words::Word;
use super::writer::{Change, Operation};
use super::{Store, StoreError, vms};
use crate::ids::VmId;
use crate::lease::{
    DestroyReason, Grant, LeaseEnd, LeasePhase, LeaseRow, VmPhase, VmRow, check_lease, check_vm,
};

impl Store {
    /// Hands a ready VM to a waiting lease: both rows in one transaction. `None` when either is no
    /// longer as it was seen, or the port went to another lease meanwhile.
    ///
    /// # Errors
    /// When the two do not belong together, the transition is not legal, or the database fails.
    pub async fn assign(
        &self,
        lease: &LeaseRow,
        vm: &VmRow,
        grant: &Grant,
        now: OffsetDateTime,
    ) -> Result<Option<LeaseRow>, StoreError> {
        if grant.vm != vm.id || lease.key != vm.key {
            return Err(StoreError::Mismatch);
        }
        check_lease(&lease.phase, &LeasePhase::Active(Box::new(grant.clone())))?;
        check_vm(&vm.phase, &VmPhase::Assigned { lease: lease.id })?;
        self.write(Assign {
            lease: lease.id,
            lease_generation: lease.generation,
            vm_generation: vm.generation,
            grant: grant.clone(),
            now,
        })
        .await
    }

    /// Ends a lease and begins to destroy its VM, if it has one, in one transaction. `None` when there
    /// is no reason any more: it is no longer in that phase, somebody wished another end, or the expiry
    /// or the heartbeat that is the reason has moved.
    ///
    /// # Errors
    /// When the lease is ending already or the database fails.
    pub async fn end_lease(
        &self,
        seen: &LeaseRow,
        reason: EndReason,
        detail: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<Option<LeaseRow>, StoreError> {
        let (from, grant) = match &seen.phase {
            LeasePhase::Active(grant) => (state::ACTIVE, Some(grant)),
            _ => (state::WAITING, None),
        };
        let detail = detail.map(str::to_owned);
        let end = LeaseEnd {
            reason,
            detail: detail.clone(),
            ready_at: grant.map(|grant| grant.ready_at),
            expires_at: grant.map(|grant| grant.expires_at),
        };
        let vm = grant.map(|grant| grant.vm);
        check_lease(&seen.phase, &LeasePhase::Ending { end, vm })?;
        let expiry = grant.filter(|_| reason == EndReason::Expired);
        let silence = grant.filter(|_| reason == EndReason::KeepaliveMissed);
        self.write(End {
            lease: seen.id,
            from,
            expires_at: expiry.map(|grant| grant.expires_at),
            heartbeat_at: silence.map(|grant| grant.heartbeat_at),
            vm,
            reason,
            detail,
            now,
        })
        .await
    }

    /// Closes a lease whose VM is gone or that never had one, and frees its port. `None` when the
    /// lease is no longer as it was seen, or its VM is not gone.
    ///
    /// # Errors
    /// When the lease is not ending or the database fails.
    pub async fn finish_lease(
        &self,
        seen: &LeaseRow,
        now: OffsetDateTime,
    ) -> Result<Option<LeaseRow>, StoreError> {
        let end = match &seen.phase {
            LeasePhase::Ending { end, .. } => end.clone(),
            // Whatever it says: the diagram refuses it.
            _ => LeaseEnd {
                reason: EndReason::Released,
                detail: None,
                ready_at: None,
                expires_at: None,
            },
        };
        let ended_at = kept(now);
        let phase = LeasePhase::Ended { end, ended_at };
        check_lease(&seen.phase, &phase)?;
        let ended = LeaseRow {
            generation: seen.generation + 1,
            phase,
            ..seen.clone()
        };
        self.write(Finish { ended, now }).await
    }
}

struct Assign {
    lease: LeaseId,
    lease_generation: i64,
    vm_generation: i64,
    grant: Grant,
    now: OffsetDateTime,
}

impl Operation for Assign {
    type Answer = Option<LeaseRow>;

    fn run(&self, change: &mut Change<'_>) -> Result<Self::Answer, StoreError> {
        let grant = &self.grant;
        let (lease_id, vm_id) = (self.lease.to_string(), grant.vm.to_string());
        // Both rows and the port are looked at before anything is written, so that a lost race never
        // meets the unique indexes. The VM follows its lease.
        let lease = change.line.first(
            "UPDATE leases SET generation = generation + 1, state = 'active', vm_id = $1, \
             port = $2, ca_pem = $3, cert_pem = $4, ready_at = $5, expires_at = $6, warm = $7, \
             timings = $8, heartbeat_at = $9, ssh_host_key = $10 \
             WHERE id = $11 AND generation = $12 AND state = 'waiting' \
             AND EXISTS (SELECT 1 FROM vms WHERE id = $1 AND generation = $13 AND state = 'ready') \
             AND NOT EXISTS (SELECT 1 FROM leases AS other WHERE other.node_id = $14 \
             AND other.port = $2) RETURNING *",
            params![
                vm_id,
                grant.port,
                grant.ca_pem,
                grant.cert_pem,
                micros(grant.ready_at),
                micros(grant.expires_at),
                grant.warm,
                json(&grant.timings),
                micros(grant.heartbeat_at),
                grant.ssh_host_key,
                lease_id,
                self.lease_generation,
                self.vm_generation,
                change.node.to_string(),
            ],
            |row| rows::lease(row),
        )?;
        let Some(lease) = lease else { return Ok(None) };
        let vm = change.line.first(
            vms::returning!(
                "UPDATE vms SET generation = generation + 1, state = 'assigned', lease_id = $2, \
                 phase_since = $4 WHERE id = $1 AND generation = $3 AND state = 'ready'"
            ),
            params![vm_id, lease_id, self.vm_generation, micros(self.now)],
            |row| rows::vm(row),
        )?;
        wrote_both(change, &lease, vm);
        change.tell(self.lease, EventKind::Ready, None, self.now);
        Ok(Some(lease))
    }
}

/// What would have kept the lease from this end is compared, not its generation: the deadline that has
/// passed, or what somebody wished first. Holders may move deadlines as fast as they like; none of that
/// keeps a lease whose machine is gone.
struct End {
    lease: LeaseId,
    from: &'static str,
    /// The expiry that has come, if that is the reason.
    expires_at: Option<OffsetDateTime>,
    /// The heartbeat that was the last, if that is the reason.
    heartbeat_at: Option<OffsetDateTime>,
    vm: Option<VmId>,
    reason: EndReason,
    detail: Option<String>,
    now: OffsetDateTime,
}

impl Operation for End {
    type Answer = Option<LeaseRow>;

    fn run(&self, change: &mut Change<'_>) -> Result<Self::Answer, StoreError> {
        let destroyed = match self.reason {
            EndReason::VmLost => DestroyReason::Lost,
            _ => DestroyReason::LeaseEnded,
        };
        // The lease's own compare-and-set protects the VM: it leaves *assigned* in this way only.
        let lease_id = self.lease.to_string();
        let lease = change.line.first(
            "UPDATE leases SET generation = generation + 1, state = 'ending', end_reason = $1, \
             end_detail = $2 WHERE id = $3 AND state = $4 AND COALESCE(end_wish, $1) = $1 \
             AND ($5 IS NULL OR expires_at = $5) AND ($6 IS NULL OR heartbeat_at = $6) RETURNING *",
            params![
                self.reason.word(),
                self.detail,
                lease_id,
                self.from,
                self.expires_at.map(micros),
                self.heartbeat_at.map(micros),
            ],
            |row| rows::lease(row),
        )?;
        let Some(lease) = lease else { return Ok(None) };
        let destroy = |vm: VmId| {
            change.line.first(
                vms::returning!(
                    "UPDATE vms SET generation = generation + 1, state = 'destroying', reason = $1, \
                     phase_since = $2 WHERE id = $3 AND lease_id = $4 AND state = 'assigned'"
                ),
                params![destroyed.word(), micros(self.now), vm.to_string(), lease_id],
                |row| rows::vm(row),
            )
        };
        let vm = self.vm.map(destroy).transpose()?.flatten();
        wrote_both(change, &lease, vm);
        let told = self.detail.as_deref().unwrap_or(self.reason.word());
        change.tell(self.lease, EventKind::Ending, Some(told), self.now);
        Ok(Some(lease))
    }
}

/// Takes note of a lease and of its VM if it has one.
fn wrote_both(change: &mut Change<'_>, lease: &LeaseRow, vm: Option<VmRow>) {
    change.wrote_lease(lease);
    if let Some(vm) = vm {
        change.wrote_vm(&vm);
    }
}

struct Finish {
    /// What becomes of the lease that was seen.
    ended: LeaseRow,
    now: OffsetDateTime,
}

impl Operation for Finish {
    type Answer = Option<LeaseRow>;

    fn run(&self, change: &mut Change<'_>) -> Result<Self::Answer, StoreError> {
        let done = change.line.execute(
            "UPDATE leases SET generation = $1, state = 'ended', ended_at = $2, port = NULL \
             WHERE id = $3 AND generation = $1 - 1 AND state = 'ending' \
             AND NOT EXISTS (SELECT 1 FROM vms WHERE vms.id = leases.vm_id AND vms.state <> 'gone')",
            params![
                self.ended.generation,
                micros(self.now),
                self.ended.id.to_string()
            ],
        )?;
        if done == 0 {
            return Ok(None);
        }
        change.wrote_lease(&self.ended);
        change.tell(self.ended.id, EventKind::Ended, None, self.now);
        Ok(Some(self.ended.clone()))
    }
}
