//! The real one in a few lines: it gives every waiting lease a VM and ends what is wished to end.

use remote_docker_api::StepTiming;
use tokio::task::AbortHandle;

use super::*;
use crate::ids::VmId;
use crate::lease::{Budget, DestroyReason, Grant, LeasePhase, VmPhase, VmRow};
use crate::pki::VmCa;

const ROOMY: Budget = Budget {
    memory_mib: 1 << 20,
    slots: 1000,
};

/// Runs until it is dropped.
pub(super) struct Running(AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Fixture {
    pub(super) fn reconciled(&self) -> Running {
        let store = self.api.store.clone();
        let task = tokio::spawn(async move {
            let mut changes = store.changes();
            loop {
                reconcile(&store).await;
                changes.changed().await.unwrap();
            }
        });
        Running(task.abort_handle())
    }
}

pub(super) async fn reconcile(store: &Store) {
    for lease in store.live_leases().await.unwrap() {
        match (&lease.phase, lease.end_wish) {
            (LeasePhase::Waiting, None) => grant(store, &lease).await,
            (LeasePhase::Waiting | LeasePhase::Active(_), Some(reason)) => {
                store.end_lease(&lease, reason, None, NOW).await.unwrap();
            }
            (LeasePhase::Ending { vm, .. }, _) => finish(store, &lease, *vm).await,
            _ => {}
        }
    }
}

/// Makes a VM for the lease and hands it over.
pub(super) async fn grant(store: &Store, lease: &LeaseRow) {
    let id = VmId::from_bits(lease.id.bits());
    let vm = ready_vm(store, id, lease).await;
    let until = NOW + time::Duration::seconds(lease.ttl_s.into());
    let ca = VmCa::generate(id, NOW, until).unwrap();
    let name = lease.id.to_string();
    let taken = store.used_ports().await.unwrap();
    let grant = Grant {
        vm: id,
        port: (23_760..).find(|port| !taken.contains(port)).unwrap(),
        ca_pem: ca.ca_pem(),
        ssh_host_key: Some("ssh-ed25519 KEY".to_owned()),
        cert_pem: ca
            .sign_client(&lease.client_csr_pem, &name, NOW, until)
            .unwrap(),
        ready_at: NOW,
        expires_at: until,
        heartbeat_at: NOW,
        warned_of: None,
        warm: false,
        timings: vec![StepTiming {
            step: "clone".to_owned(),
            duration_ms: 7,
        }],
    };
    // A lease that was given up meanwhile is no longer as it was seen; its turn comes again.
    store.assign(lease, &vm, &grant, NOW).await.unwrap();
}

async fn ready_vm(store: &Store, id: VmId, lease: &LeaseRow) -> VmRow {
    let created = store.create_vm(id, &lease.key, 1024, NOW, &ROOMY).await;
    let mut vm = created.unwrap().unwrap();
    for phase in [VmPhase::Starting, VmPhase::Activating, VmPhase::Ready] {
        vm = store.advance_vm(&vm, phase, NOW).await.unwrap().unwrap();
    }
    vm
}

async fn finish(store: &Store, lease: &LeaseRow, vm: Option<VmId>) {
    if let Some(vm) = vm {
        let vm = store.vm(vm).await.unwrap().unwrap();
        assert_eq!(
            vm.phase,
            VmPhase::Destroying {
                reason: DestroyReason::LeaseEnded
            }
        );
        store.vm_gone(&vm, NOW).await.unwrap();
    }
    store.finish_lease(lease, NOW).await.unwrap();
}
