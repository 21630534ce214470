//! Leases and VMs as the core sees them. Each phase carries what is valid in it and nothing else.

use std::collections::BTreeMap;

use remote_docker_api::{Egress, EndReason, LeaseId, StepTiming};
use time::OffsetDateTime;

use crate::ids::{Slot, VmId};

/// What makes two VMs interchangeable before they are leased.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolKey {
    /// Name of the engine's image.
    pub engine: String,
    /// Name of the size.
    pub size: String,
}

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRow {
    /// Its id.
    pub id: VmId,
    /// Counts its transitions; a transition names the one it saw.
    pub generation: i64,
    /// Engine and size.
    pub key: PoolKey,
    /// Its memory in MiB, counted against the budget until it is gone.
    pub memory_mib: u32,
    /// Decides its address.
    pub slot: Slot,
    /// Where it is in its life.
    pub phase: VmPhase,
    /// When it entered that phase.
    pub phase_since: OffsetDateTime,
}

/// Where a VM is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmPhase {
    /// Has a row and a slot; nothing of it is on the host.
    Planned,
    /// The hypervisor makes it.
    Starting,
    /// It runs; the agent gives it its identity.
    Activating,
    /// Its Docker daemon can be handed to anybody.
    Ready,
    /// It belongs to this lease.
    Assigned {
        /// The one lease it ever serves.
        lease: LeaseId,
    },
    /// It is being taken away.
    Destroying {
        /// Why.
        reason: DestroyReason,
    },
    /// The host was seen to be clean of it.
    Gone {
        /// Why it was destroyed.
        reason: DestroyReason,
    },
}

impl VmPhase {
    /// Whether nothing of it is left.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }
}

/// Why a VM is destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DestroyReason {
    /// Its lease ended.
    LeaseEnded,
    /// The hypervisor could not start it.
    StartFailed,
    /// It ran, but did not become a machine of its own that passes every check.
    ActivationFailed,
    /// It stayed longer in a transient phase than that phase may last.
    Stuck,
    /// The server stopped while it was being made.
    Interrupted,
    /// It ended by itself or was ended by somebody else.
    Lost,
    /// Nobody needs it.
    Surplus,
    /// It was ready for so long that a fresh one is better.
    Aged,
    /// Its agent or its Docker daemon stopped answering before it had a lease.
    Unwell,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// Its id.
    pub id: LeaseId,
    /// Counts its transitions; a transition names the one it saw.
    pub generation: i64,
    /// Whose it is: leases of other projects are not seen, and no project starves the others.
    pub project: String,
    /// Engine and size asked for.
    pub key: PoolKey,
    /// How long it lasts once active, in seconds.
    pub ttl_s: u32,
    /// How often its holder must send a heartbeat, in seconds; `None` when none is expected.
    pub keepalive_s: Option<u32>,
    /// How long nothing may happen on it before it ends, in seconds; `None` when that is no reason.
    pub idle_s: Option<u32>,
    /// What its machine may reach.
    pub egress: Egress,
    /// What the requester wrote on it.
    pub labels: BTreeMap<String, String>,
    /// The request for the client's certificate (PEM).
    pub client_csr_pem: String,
    /// When it was asked for.
    pub created_at: OffsetDateTime,
    /// Until when its requester waits for a machine.
    pub wait_until: OffsetDateTime,
    /// Whether the call that made it holds the line until it is active, so that a server that lost
    /// its connections in a restart knows that nobody waits any more.
    pub attended: bool,
    /// The wish to end it, written by a handler, carried out by the reconciler.
    pub end_wish: Option<EndReason>,
    /// How often its holder was told that its machine runs out of something.
    pub troubles: u32,
    /// Where it is in its life.
    pub phase: LeasePhase,
}

impl LeaseRow {
    /// The machine that it has while it is active.
    #[must_use]
    pub fn machine(&self) -> Option<VmId> {
        match &self.phase {
            LeasePhase::Active(grant) => Some(grant.vm),
            _ => None,
        }
    }
}

/// Where a lease is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeasePhase {
    /// No machine is ready for it yet.
    Waiting,
    /// Its machine can be reached.
    Active(Box<Grant>),
    /// Its machine is being destroyed.
    Ending {
        /// Why, and what it had.
        end: LeaseEnd,
        /// Its machine, if it had one.
        vm: Option<VmId>,
    },
    /// Nothing of it is left on the host.
    Ended {
        /// Why, and what it had.
        end: LeaseEnd,
        /// When that was observed.
        ended_at: OffsetDateTime,
    },
}

/// What an active lease has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its machine.
    pub vm: VmId,
    /// TCP port of the relay.
    pub port: u16,
    /// Certificate of the machine's own CA (PEM).
    pub ca_pem: String,
    /// The client's certificate (PEM).
    pub cert_pem: String,
    /// The machine's SSH host key (OpenSSH format, one line); leases of old versions know none.
    pub ssh_host_key: Option<String>,
    /// When it became active.
    pub ready_at: OffsetDateTime,
    /// When it ends.
    pub expires_at: OffsetDateTime,
    /// When its holder sent the last heartbeat; at first, when it became active.
    pub heartbeat_at: OffsetDateTime,
    /// The end that its holder has been warned of. A later one is worth another warning.
    pub warned_of: Option<OffsetDateTime>,
    /// Whether the machine was ready before the lease was asked for.
    pub warm: bool,
    /// What its start was made of.
    pub timings: Vec<StepTiming>,
}

/// Why a lease ended and when it had been active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseEnd {
    /// Why.
    pub reason: EndReason,
    /// More about it, in words, where there is more to say.
    pub detail: Option<String>,
    /// When it had become active, if it had.
    pub ready_at: Option<OffsetDateTime>,
    /// When it would have expired.
    pub expires_at: Option<OffsetDateTime>,
}
