//! What clients of a bench's server ask for, and what becomes of it.

use std::collections::BTreeMap;

use remote_docker_api::{Egress, EndReason, LeaseId};

use super::{Bench, PATIENCE, key};
use crate::lease::{Grant, LeasePhase, LeaseRow, VmPhase};
use crate::store::NewLease;

/// What is asked for.
#[derive(Debug, Clone)]
pub(in super::super) struct Ask {
    pub(in super::super) ttl_s: u32,
    pub(in super::super) keepalive_s: Option<u32>,
    pub(in super::super) idle_s: Option<u32>,
    pub(in super::super) egress: Egress,
    /// As a client does that waits for the answer.
    pub(in super::super) attended: bool,
}

impl Default for Ask {
    fn default() -> Self {
        Self {
            ttl_s: 3600,
            keepalive_s: None,
            idle_s: None,
            egress: Egress::Internet,
            attended: false,
        }
    }
}

impl Bench {
    pub(in super::super) async fn ask(&mut self) -> LeaseId {
        self.ask_for(3600).await
    }

    /// Asks as a client does that waits for the answer.
    pub(in super::super) async fn ask_attended(&mut self) -> LeaseId {
        self.ask_with(Ask {
            attended: true,
            ..Ask::default()
        })
        .await
    }

    pub(in super::super) async fn ask_for(&mut self, ttl_s: u32) -> LeaseId {
        self.ask_with(Ask {
            ttl_s,
            ..Ask::default()
        })
        .await
    }

    /// Asks for a lease that ends when nothing happens on it for so long.
    pub(in super::super) async fn ask_idle(&mut self, idle_s: u32) -> LeaseId {
        self.ask_with(Ask {
            ttl_s: 3600 * 3,
            idle_s: Some(idle_s),
            ..Ask::default()
        })
        .await
    }

    /// Waits until a machine is ready that no lease has.
    pub(in super::super) async fn ready_one(&self) {
        let mut changes = self.store.changes();
        let ready = async {
            loop {
                changes.mark_unchanged();
                let (vms, _) = self.store.snapshot().await.unwrap();
                if vms.iter().any(|vm| vm.phase == VmPhase::Ready) {
                    return;
                }
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, ready)
            .await
            .expect("no machine is ready");
    }

    pub(in super::super) async fn ask_with(&mut self, ask: Ask) -> LeaseId {
        self.ask_as("default", ask).await
    }

    pub(in super::super) async fn ask_as(&mut self, project: &str, ask: Ask) -> LeaseId {
        let Ask {
            ttl_s,
            keepalive_s,
            idle_s,
            egress,
            attended,
        } = ask;
        self.leases_made += 1;
        let id = LeaseId::from_bits(self.leases_made);
        let client = rcgen::KeyPair::generate().unwrap();
        let request = rcgen::CertificateParams::default()
            .serialize_request(&client)
            .unwrap();
        let new = NewLease {
            id,
            project: project.to_owned(),
            key: key(),
            ttl_s,
            keepalive_s,
            idle_s,
            egress,
            idempotency: None,
            labels: BTreeMap::new(),
            client_csr_pem: request.pem().unwrap(),
            created_at: self.now(),
            wait_until: self.now() + time::Duration::seconds(120),
            attended,
            asked: Default::default(),
            asked_token: None,
        };
        self.store.insert_lease(&new).await.unwrap();
        id
    }

    /// Waits until the server has gone round: whoever asks now is served after all that was due.
    pub(in super::super) async fn goes_round(&mut self) {
        let other = self.ask().await;
        self.active(other).await;
        self.release(other).await;
        self.ended(other).await;
    }

    pub(in super::super) async fn is_active(&self, id: LeaseId) -> bool {
        matches!(self.lease(id).await.phase, LeasePhase::Active(_))
    }

    pub(in super::super) async fn release(&self, id: LeaseId) {
        self.store.wish_end(id, EndReason::Released).await.unwrap();
    }

    pub(in super::super) async fn lease(&self, id: LeaseId) -> LeaseRow {
        self.store.lease(id).await.unwrap().unwrap()
    }

    /// Waits until the lease is active.
    pub(in super::super) async fn active(&self, id: LeaseId) -> Grant {
        let row = self
            .until(id, "active", |phase| matches!(phase, LeasePhase::Active(_)))
            .await;
        match row.phase {
            LeasePhase::Active(grant) => *grant,
            _ => unreachable!(),
        }
    }

    /// Waits until the lease has ended and tells why it did.
    pub(in super::super) async fn ended(&self, id: LeaseId) -> EndReason {
        let row = self
            .until(id, "ended", |phase| {
                matches!(phase, LeasePhase::Ended { .. })
            })
            .await;
        match row.phase {
            LeasePhase::Ended { end, .. } => end.reason,
            _ => unreachable!(),
        }
    }

    async fn until(&self, id: LeaseId, what: &str, is: fn(&LeasePhase) -> bool) -> LeaseRow {
        let mut changes = self.store.changes();
        let wait = async {
            loop {
                changes.mark_unchanged();
                let row = self.lease(id).await;
                if is(&row.phase) {
                    return row;
                }
                changes.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(row) => row,
            Err(_) => panic!(
                "{id} is not {what}: {:?}; rows {:?}; host {:?}; status {:?}",
                self.lease(id).await.phase,
                self.store.snapshot().await.unwrap().0,
                self.sim.vms(),
                self.status(),
            ),
        }
    }
}
