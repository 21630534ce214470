//! Rows of the tables as the core's types.

use remote_docker_api::LeaseId;

use super::StoreError;
use super::columns::{Columns, Record};
use crate::ids::{Slot, VmId};
use crate::lease::{DestroyReason, Grant, LeaseEnd, LeasePhase, LeaseRow, PoolKey, VmPhase, VmRow};

/// The words of the states.
pub(super) mod state {
    pub(crate) const PLANNED: &str = "planned";
    pub(crate) const STARTING: &str = "starting";
    pub(crate) const ACTIVATING: &str = "activating";
    pub(crate) const READY: &str = "ready";
    pub(crate) const ASSIGNED: &str = "assigned";
    pub(crate) const DESTROYING: &str = "destroying";
    pub(crate) const GONE: &str = "gone";

    pub(crate) const WAITING: &str = "waiting";
    pub(crate) const ACTIVE: &str = "active";
    pub(crate) const ENDING: &str = "ending";
    pub(crate) const ENDED: &str = "ended";
}

/// The word of a VM's phase, and what else of the phase has a column.
pub(super) fn vm_columns(
    phase: &VmPhase,
) -> (&'static str, Option<LeaseId>, Option<DestroyReason>) {
    match *phase {
        VmPhase::Planned => (state::PLANNED, None, None),
        VmPhase::Starting => (state::STARTING, None, None),
        VmPhase::Activating => (state::ACTIVATING, None, None),
        VmPhase::Ready => (state::READY, None, None),
        VmPhase::Assigned { lease } => (state::ASSIGNED, Some(lease), None),
        VmPhase::Destroying { reason } => (state::DESTROYING, None, Some(reason)),
        VmPhase::Gone { reason } => (state::GONE, None, Some(reason)),
    }
}

fn key(columns: &Columns<'_>) -> Result<PoolKey, StoreError> {
    Ok(PoolKey {
        engine: columns.get("engine")?,
        size: columns.get("size")?,
    })
}

/// A row of `vms`.
pub(super) fn vm<'r>(row: impl Into<Record<'r>>) -> Result<VmRow, StoreError> {
    let columns = Columns::new("vms", row);
    let phase = match columns.need("state")? {
        state::PLANNED => VmPhase::Planned,
        state::STARTING => VmPhase::Starting,
        state::ACTIVATING => VmPhase::Activating,
        state::READY => VmPhase::Ready,
        state::ASSIGNED => VmPhase::Assigned {
            lease: columns.parse("lease_id")?,
        },
        state::DESTROYING => VmPhase::Destroying {
            reason: columns.word("reason")?,
        },
        state::GONE => VmPhase::Gone {
            reason: columns.word("reason")?,
        },
        other => return Err(columns.unknown("state", other)),
    };
    Ok(VmRow {
        id: columns.parse("id")?,
        generation: columns.number("generation")?,
        key: key(&columns)?,
        memory_mib: columns.number("memory_mib")?,
        slot: Slot(columns.number("slot")?),
        phase,
        phase_since: columns.time("phase_since")?,
    })
}

/// A row of `leases`.
pub(super) fn lease<'r>(row: impl Into<Record<'r>>) -> Result<LeaseRow, StoreError> {
    let columns = Columns::new("leases", row);
    let phase = match columns.need("state")? {
        state::WAITING => LeasePhase::Waiting,
        state::ACTIVE => LeasePhase::Active(Box::new(grant(&columns)?)),
        state::ENDING => LeasePhase::Ending {
            end: end(&columns)?,
            vm: columns.maybe_parse::<VmId>("vm_id")?,
        },
        state::ENDED => LeasePhase::Ended {
            end: end(&columns)?,
            ended_at: columns.time("ended_at")?,
        },
        other => return Err(columns.unknown("state", other)),
    };
    Ok(LeaseRow {
        id: columns.parse("id")?,
        generation: columns.number("generation")?,
        project: columns.get("project")?,
        key: key(&columns)?,
        ttl_s: columns.number("ttl_s")?,
        keepalive_s: columns.maybe_number("keepalive_s")?,
        idle_s: columns.maybe_number("idle_s")?,
        egress: columns.word("egress")?,
        labels: columns.json("labels")?,
        client_csr_pem: columns.get("client_csr_pem")?,
        created_at: columns.time("created_at")?,
        wait_until: columns.time("wait_until")?,
        attended: columns.get("attended")?,
        end_wish: columns.maybe_word("end_wish")?,
        troubles: columns.number("troubles")?,
        phase,
    })
}

fn grant(columns: &Columns<'_>) -> Result<Grant, StoreError> {
    Ok(Grant {
        vm: columns.parse("vm_id")?,
        port: columns.number("port")?,
        ca_pem: columns.need("ca_pem")?,
        cert_pem: columns.need("cert_pem")?,
        ssh_host_key: columns.get("ssh_host_key")?,
        ready_at: columns.time("ready_at")?,
        expires_at: columns.time("expires_at")?,
        // Leases from before there were heartbeats have none.
        heartbeat_at: match columns.maybe_time("heartbeat_at")? {
            Some(moment) => moment,
            None => columns.time("ready_at")?,
        },
        warned_of: columns.maybe_time("warned_of")?,
        warm: columns.need("warm")?,
        timings: columns.json("timings")?,
    })
}

fn end(columns: &Columns<'_>) -> Result<LeaseEnd, StoreError> {
    Ok(LeaseEnd {
        reason: columns.word("end_reason")?,
        detail: columns.get("end_detail")?,
        ready_at: columns.maybe_time("ready_at")?,
        expires_at: columns.maybe_time("expires_at")?,
    })
}
