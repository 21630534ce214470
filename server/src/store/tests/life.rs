//! One lease and one VM from beginning to end.

use remote_docker_api::EndReason;

use super::*;
use crate::lease::{DestroyReason, LeaseEnd, LeasePhase};

#[tokio::test]
async fn a_lease_and_its_vm_go_through_their_whole_life() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let lease = insert(store, &new_lease(7)).await;
    assert_eq!(lease.phase, LeasePhase::Waiting);
    assert_eq!(lease.labels, new_lease(7).labels);
    assert!(lease.attended);

    let vm = ready(store, 1).await;
    assert_eq!((vm.slot.0, vm.generation, vm.phase_since), (1, 4, at(2)));
    let granted = grant(vm.id, 20_000);
    let held = store.assign(&lease, &vm, &granted, at(3)).await.unwrap();
    let held = held.unwrap();
    assert_eq!(held.phase, LeasePhase::Active(Box::new(granted)));
    let (vms, leases) = store.snapshot().await.unwrap();
    assert_eq!(vms[0].phase, VmPhase::Assigned { lease: lease.id });
    assert_eq!(leases.as_slice(), std::slice::from_ref(&held));

    let end = LeaseEnd {
        reason: EndReason::Released,
        detail: None,
        ready_at: Some(at(3)),
        expires_at: Some(at(3603)),
    };
    let ending = store
        .end_lease(&held, EndReason::Released, None, at(9))
        .await;
    let ending = ending.unwrap().unwrap();
    let phase = LeasePhase::Ending {
        end: end.clone(),
        vm: Some(vm.id),
    };
    assert_eq!(ending.phase, phase);
    let vm = store.vm(vm.id).await.unwrap().unwrap();
    let reason = DestroyReason::LeaseEnded;
    assert_eq!(vm.phase, VmPhase::Destroying { reason });
    assert_eq!(vm.phase_since, at(9));

    // The port stays taken and the lease open until the VM is gone.
    assert_eq!(store.finish_lease(&ending, at(10)).await.unwrap(), None);
    assert_eq!(store.used_ports().await.unwrap(), [20_000].into());
    let gone = store.vm_gone(&vm, at(11)).await.unwrap().unwrap();
    assert_eq!(gone.phase, VmPhase::Gone { reason });
    let ended = store.finish_lease(&ending, at(12)).await.unwrap().unwrap();
    let ended_at = at(12);
    assert_eq!(ended.phase, LeasePhase::Ended { end, ended_at });
    assert!(store.used_ports().await.unwrap().is_empty());
    assert_eq!(store.snapshot().await.unwrap(), (vec![], vec![]));

    // It can still be looked up, also by another process, until it is forgotten.
    let fixture = fixture.reopen().await;
    let store = &fixture.store;
    assert_eq!(store.lease(lease.id).await.unwrap(), Some(ended));
    assert_eq!(store.prune(at(12)).await.unwrap(), 0);
    assert_eq!(store.prune(at(13)).await.unwrap(), 2);
    assert_eq!(store.lease(lease.id).await.unwrap(), None);
    assert_eq!(store.vm(gone.id).await.unwrap(), None);
}

#[tokio::test]
async fn only_its_owner_reads_it() {
    use std::os::unix::fs::PermissionsExt;
    let Fixture { store, folder } = Fixture::new().await;
    active(&store, 1, 20_000).await;
    let files: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .flatten()
        .collect();
    assert!(files.len() >= 2, "the write-ahead log is a file as well");
    for file in files {
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} {mode:o}", file.path());
    }
}

#[tokio::test]
async fn what_a_write_answers_is_what_reads_back() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    // Finer than the tables keep, and not in UTC.
    let now = (at(1) + Duration::nanoseconds(1_234_567)).to_offset(time::macros::offset!(+2));
    let new = NewLease {
        keepalive_s: Some(30),
        idle_s: Some(40),
        created_at: now,
        wait_until: now + Duration::seconds(60),
        ..new_lease(1)
    };
    let read_lease = async || store.lease(new.id).await.unwrap();
    let read_vm = async || store.vm(VmId::from_bits(1)).await.unwrap();
    let lease = insert(&store, &new).await;
    assert_eq!(read_lease().await, Some(lease.clone()));
    let (id, key) = (VmId::from_bits(1), key());
    let mut vm = store.create_vm(id, &key, 1024, now, &ROOMY).await.unwrap();
    assert_eq!(read_vm().await, vm);
    for next in [VmPhase::Starting, VmPhase::Activating, VmPhase::Ready] {
        vm = store.advance_vm(&vm.unwrap(), next, now).await.unwrap();
        assert_eq!(read_vm().await, vm);
    }
    let vm = vm.unwrap();
    let held = store.assign(&lease, &vm, &grant(vm.id, 20_000), now).await;
    let held = held.unwrap();
    assert_eq!(read_lease().await, held);
    let held = held.unwrap();
    let ending = store.end_lease(&held, EndReason::Released, Some("why"), now);
    let ending = ending.await.unwrap();
    assert_eq!(read_lease().await, ending);
    let gone = store.vm_gone(&read_vm().await.unwrap(), now).await.unwrap();
    assert_eq!(read_vm().await, gone);
    let ended = store.finish_lease(&ending.unwrap(), now).await.unwrap();
    assert_eq!(read_lease().await, ended);
    assert!(ended.is_some());
}
