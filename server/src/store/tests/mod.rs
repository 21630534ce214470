//! Tests of the store, on real SQLite files.

mod damage;
mod deadlines;
mod life;
mod races;
mod rules;
mod troubles;
mod writer;

use std::collections::BTreeMap;

use remote_docker_api::{Egress, LeaseId, StepTiming};
use tempfile::TempDir;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use super::{Inserted, NewLease, Store};
use crate::ids::VmId;
use crate::lease::{Budget, Grant, LeasePhase, LeaseRow, PoolKey, VmPhase, VmRow};

const T0: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);
const ROOMY: Budget = Budget {
    memory_mib: 1 << 20,
    slots: 1000,
};

fn at(seconds: i64) -> OffsetDateTime {
    T0 + Duration::seconds(seconds)
}

fn key() -> PoolKey {
    PoolKey {
        engine: "26.1".to_owned(),
        size: "small".to_owned(),
    }
}

/// A store in a folder of its own that goes with it.
struct Fixture {
    store: Store,
    folder: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state.db")).await.unwrap();
        Self { store, folder }
    }

    async fn reopen(self) -> Self {
        self.store.close().await;
        let store = Store::open(&self.folder.path().join("state.db")).await;
        Self {
            store: store.unwrap(),
            folder: self.folder,
        }
    }
}

fn new_lease(id: u64) -> NewLease {
    NewLease {
        id: LeaseId::from_bits(id),
        project: "default".to_owned(),
        key: key(),
        ttl_s: 3600,
        keepalive_s: None,
        idle_s: None,
        egress: Egress::Internet,
        idempotency: None,
        labels: BTreeMap::from([("job".to_owned(), "build \"é\"".to_owned())]),
        client_csr_pem: "csr".to_owned(),
        created_at: at(0),
        wait_until: at(60),
        attended: true,
        asked: Default::default(),
        asked_token: None,
    }
}

/// Writes a lease that nobody asked for before.
async fn insert(store: &Store, new: &NewLease) -> LeaseRow {
    match store.insert_lease(new).await.unwrap() {
        Inserted::New(row) => row,
        other => panic!("not a new lease: {other:?}"),
    }
}

fn grant(vm: VmId, port: u16) -> Grant {
    Grant {
        vm,
        port,
        ca_pem: "ca".to_owned(),
        cert_pem: "cert".to_owned(),
        ssh_host_key: Some("ssh-ed25519 KEY".to_owned()),
        ready_at: at(3),
        expires_at: at(3603),
        heartbeat_at: at(3),
        warned_of: None,
        warm: true,
        timings: vec![StepTiming {
            step: "clone".to_owned(),
            duration_ms: 17,
        }],
    }
}

async fn planned(store: &Store, id: u64) -> VmRow {
    let made = store
        .create_vm(VmId::from_bits(id), &key(), 1024, at(1), &ROOMY)
        .await;
    made.unwrap().expect("the budget has room")
}

async fn ready(store: &Store, id: u64) -> VmRow {
    let mut vm = planned(store, id).await;
    for next in [VmPhase::Starting, VmPhase::Activating, VmPhase::Ready] {
        let moved = store.advance_vm(&vm, next, at(2)).await;
        vm = moved.unwrap().expect("nobody else moves it");
    }
    vm
}

/// A lease with its VM.
async fn active(store: &Store, id: u64, port: u16) -> (LeaseRow, VmId) {
    let vm = ready(store, id).await;
    let lease = insert(store, &new_lease(id)).await;
    let lease = store.assign(&lease, &vm, &grant(vm.id, port), at(3)).await;
    (lease.unwrap().expect("nobody else takes it"), vm.id)
}
