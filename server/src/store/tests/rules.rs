//! What each method refuses, and what it leaves alone when it does.

use std::collections::BTreeSet;

use remote_docker_api::EndReason;

use super::*;
use crate::lease::{DestroyReason, LeasePhase};
use crate::store::{Idempotency, StoreError, Wish};

#[tokio::test]
async fn a_lease_that_never_had_a_vm_ends_without_one() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    let lease = insert(&store, &new_lease(1)).await;
    let reason = EndReason::WaitTimeout;
    let ending = store.end_lease(&lease, reason, None, at(5)).await.unwrap();
    let ending = ending.unwrap();
    let LeasePhase::Ending { end, vm: None } = &ending.phase else {
        panic!("{ending:?}");
    };
    assert_eq!(
        (end.reason, end.ready_at, end.expires_at),
        (reason, None, None)
    );
    // Nobody wished for it, and it is too late to.
    let late = store.wish_end(lease.id, EndReason::Released).await.unwrap();
    assert_eq!(late, Wish::AlreadyEnding);
    assert_eq!(store.lease(lease.id).await.unwrap().unwrap(), ending);
    let ended = store.finish_lease(&ending, at(6)).await.unwrap().unwrap();
    assert!(matches!(ended.phase, LeasePhase::Ended { .. }));
    assert_eq!(store.live_leases().await.unwrap(), []);
}

#[tokio::test]
async fn a_lost_vm_is_destroyed_as_lost() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    let (lease, vm) = active(&store, 1, 20_000).await;
    let ending = store
        .end_lease(&lease, EndReason::VmLost, None, at(5))
        .await;
    assert!(ending.unwrap().is_some());
    let reason = DestroyReason::Lost;
    let row = store.vm(vm).await.unwrap().unwrap();
    assert_eq!(row.phase, VmPhase::Destroying { reason });
}

#[tokio::test]
async fn the_first_wish_stands() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    let lease = insert(&store, &new_lease(1)).await;
    let id = lease.id;
    let unknown = store.wish_end(LeaseId::from_bits(99), EndReason::Released);
    assert_eq!(unknown.await.unwrap(), Wish::Unknown);
    let first = store.wish_end(id, EndReason::ClientGone).await.unwrap();
    let second = store.wish_end(id, EndReason::Released).await.unwrap();
    assert_eq!((first, second), (Wish::Recorded, Wish::AlreadyEnding));
    let wished = store.lease(id).await.unwrap().unwrap();
    assert_eq!(wished.end_wish, Some(EndReason::ClientGone));

    // A machine is not spent on a lease that somebody has just given up.
    let vm = ready(&store, 1).await;
    let late = store
        .assign(&lease, &vm, &grant(vm.id, 20_000), at(3))
        .await;
    assert_eq!(late.unwrap(), None);
    assert_eq!(store.vm(vm.id).await.unwrap().unwrap(), vm);

    let ending = store
        .end_lease(&wished, EndReason::ClientGone, None, at(4))
        .await;
    let ending = ending.unwrap().unwrap();
    let again = store.wish_end(id, EndReason::Released).await.unwrap();
    assert_eq!(again, Wish::AlreadyEnding);
    store.finish_lease(&ending, at(5)).await.unwrap().unwrap();
    let ended = store.wish_end(id, EndReason::Released).await.unwrap();
    assert_eq!(ended, Wish::AlreadyEnding);
}

#[tokio::test]
async fn a_start_of_the_server_gives_up_those_whose_line_it_cut() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    let (held, _) = active(&store, 1, 20_000).await;
    let attended = insert(&store, &new_lease(2)).await;
    let polled = NewLease {
        attended: false,
        ..new_lease(3)
    };
    let polled = insert(&store, &polled).await;
    let repeatable = NewLease {
        idempotency: Some(Idempotency {
            key: "job-7".to_owned(),
            digest: "d".to_owned(),
        }),
        ..new_lease(4)
    };
    let repeatable = insert(&store, &repeatable).await;
    assert_eq!(store.startup().await.unwrap(), 1);
    assert_eq!(store.startup().await.unwrap(), 0);
    let wish = async |lease: LeaseRow| store.lease(lease.id).await.unwrap().unwrap().end_wish;
    assert_eq!(wish(held).await, None);
    assert_eq!(wish(attended).await, Some(EndReason::ClientGone));
    assert_eq!(wish(polled).await, None);
    assert_eq!(wish(repeatable).await, None);
}

#[tokio::test]
async fn the_budget_and_the_slots_are_kept_and_given_back() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    let budget = Budget {
        memory_mib: 4096,
        slots: 3,
    };
    let create = async |id, mib| {
        let id = VmId::from_bits(id);
        store
            .create_vm(id, &key(), mib, at(1), &budget)
            .await
            .unwrap()
    };
    let first = create(1, 1024).await.unwrap();
    let second = create(2, 1024).await.unwrap();
    assert_eq!((first.slot.0, second.slot.0), (1, 2));
    assert_eq!(create(3, 2049).await, None, "memory");
    let third = create(4, 2048).await.unwrap();
    assert_eq!(create(5, 0).await, None, "slots");

    // A VM that is being destroyed still has its memory and its address.
    let reason = DestroyReason::Surplus;
    let leaving = store.advance_vm(&first, VmPhase::Destroying { reason }, at(2));
    let leaving = leaving.await.unwrap().unwrap();
    assert_eq!(create(6, 1024).await, None);
    store.vm_gone(&leaving, at(3)).await.unwrap().unwrap();
    assert_eq!(create(7, 1024).await.unwrap().slot, first.slot);
    assert_eq!(third.slot.0, 3);
}

#[tokio::test]
async fn what_the_diagram_does_not_have_is_refused() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    let vm = planned(&store, 1).await;
    let reason = DestroyReason::Lost;
    for next in [VmPhase::Ready, VmPhase::Planned, VmPhase::Gone { reason }] {
        let refused = store.advance_vm(&vm, next, at(2)).await;
        assert!(matches!(refused, Err(StoreError::Illegal(_))), "{next:?}");
    }
    let refused = store.vm_gone(&vm, at(2)).await;
    assert!(matches!(refused, Err(StoreError::Illegal(_))));
    let ready = ready(&store, 2).await;
    let lease = LeaseId::from_bits(1);
    let alone = store.advance_vm(&ready, VmPhase::Assigned { lease }, at(2));
    assert!(matches!(alone.await, Err(StoreError::AssignedAlone)));

    let lease = insert(&store, &new_lease(1)).await;
    let refused = store.finish_lease(&lease, at(2)).await;
    assert!(matches!(refused, Err(StoreError::Illegal(_))));
    let early = store.assign(&lease, &vm, &grant(vm.id, 1), at(2)).await;
    assert!(matches!(early, Err(StoreError::Illegal(_))), "not ready");
    let other = store.assign(&lease, &ready, &grant(vm.id, 1), at(2)).await;
    assert!(matches!(other, Err(StoreError::Mismatch)), "another VM");
    let mut larger = lease.clone();
    larger.key.size = "large".to_owned();
    let other = store
        .assign(&larger, &ready, &grant(ready.id, 1), at(2))
        .await;
    assert!(matches!(other, Err(StoreError::Mismatch)), "another kind");
    let ending = store
        .end_lease(&lease, EndReason::Released, None, at(3))
        .await;
    let ending = ending.unwrap().unwrap();
    let twice = store
        .end_lease(&ending, EndReason::Released, None, at(3))
        .await;
    assert!(matches!(twice, Err(StoreError::Illegal(_))));
}

#[tokio::test]
async fn who_saw_an_old_row_changes_nothing() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    let old = planned(&store, 1).await;
    let vm = store.advance_vm(&old, VmPhase::Starting, at(2)).await;
    let vm = vm.unwrap().unwrap();
    assert_eq!(
        store
            .advance_vm(&old, VmPhase::Starting, at(9))
            .await
            .unwrap(),
        None
    );
    assert_eq!(store.vm(vm.id).await.unwrap().unwrap(), vm);

    // The same phase does not make it the same row.
    sqlx::query("UPDATE vms SET generation = generation + 1")
        .execute(&store.pool)
        .await
        .unwrap();
    let stale = store.advance_vm(&vm, VmPhase::Activating, at(3)).await;
    assert_eq!(stale.unwrap(), None);

    let waiting = insert(&store, &new_lease(2)).await;
    let stock = ready(&store, 2).await;
    let spare = ready(&store, 3).await;
    let held = store
        .assign(&waiting, &stock, &grant(stock.id, 20_000), at(3))
        .await;
    let held = held.unwrap().unwrap();
    // The same lease cannot have a second VM, the same VM no second lease, nor the same port.
    let again = store
        .assign(&waiting, &spare, &grant(spare.id, 20_001), at(3))
        .await;
    assert_eq!(again.unwrap(), None);
    assert_eq!(store.vm(spare.id).await.unwrap().unwrap(), spare);
    let next = insert(&store, &new_lease(3)).await;
    let again = store
        .assign(&next, &stock, &grant(stock.id, 20_001), at(3))
        .await;
    assert_eq!(again.unwrap(), None);
    let again = store
        .assign(&next, &spare, &grant(spare.id, 20_000), at(3))
        .await;
    assert_eq!(again.unwrap(), None);
    assert_eq!(store.lease(next.id).await.unwrap().unwrap(), next);

    let stale = store
        .end_lease(&waiting, EndReason::ClientGone, None, at(4))
        .await;
    assert_eq!(stale.unwrap(), None);
    // A VM leaves an active lease together with it only.
    let assigned = store.vm(stock.id).await.unwrap().unwrap();
    let reason = DestroyReason::Lost;
    let alone = store.advance_vm(&assigned, VmPhase::Destroying { reason }, at(4));
    assert_eq!(alone.await.unwrap(), None);
    let ending = store
        .end_lease(&held, EndReason::Released, None, at(5))
        .await;
    let ending = ending.unwrap().unwrap();
    let gone = store.vm(stock.id).await.unwrap().unwrap();
    store.vm_gone(&gone, at(6)).await.unwrap().unwrap();
    assert_eq!(store.vm_gone(&gone, at(7)).await.unwrap(), None);
    store.finish_lease(&ending, at(8)).await.unwrap().unwrap();
    assert_eq!(store.finish_lease(&ending, at(9)).await.unwrap(), None);
}

#[tokio::test]
async fn the_tables_themselves_refuse_what_must_be_unique() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    active(&store, 1, 20_000).await;
    active(&store, 2, 20_001).await;
    planned(&store, 3).await;
    let statements = [
        "UPDATE vms SET slot = 1",
        "UPDATE vms SET lease_id = 'l-0000000000001'",
        "UPDATE leases SET port = 20000",
        "UPDATE leases SET vm_id = 'vm-0000000000001'",
        "UPDATE leases SET vm_id = 'vm-000000000000z' WHERE id = 'l-0000000000001'",
    ];
    for statement in statements {
        let refused = sqlx::query(statement).execute(&store.pool).await;
        let message = refused.unwrap_err().to_string();
        assert!(
            message.contains("constraint failed"),
            "{statement}: {message}"
        );
    }
}

#[tokio::test]
async fn every_write_is_told_and_a_lost_race_is_not() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    let mut changes = store.changes();
    let mut told = async |what: &str, expected: bool| {
        assert_eq!(changes.has_changed().unwrap(), expected, "{what}");
        changes.mark_unchanged();
        changes.borrow_and_update();
    };
    told("nothing yet", false).await;
    let lease = insert(&store, &new_lease(1)).await;
    told("insert", true).await;
    let vm = planned(&store, 1).await;
    told("create", true).await;
    let started = store.advance_vm(&vm, VmPhase::Starting, at(2)).await;
    assert!(started.unwrap().is_some());
    told("advance", true).await;
    assert_eq!(
        store
            .advance_vm(&vm, VmPhase::Starting, at(2))
            .await
            .unwrap(),
        None
    );
    told("lost race", false).await;
    store.wish_end(lease.id, EndReason::Released).await.unwrap();
    told("wish", true).await;
    store.wish_end(lease.id, EndReason::Released).await.unwrap();
    told("second wish", false).await;
    store.snapshot().await.unwrap();
    told("read", false).await;
}

#[tokio::test]
async fn only_what_is_long_over_is_forgotten() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    active(&store, 1, 20_000).await;
    ready(&store, 2).await;
    insert(&store, &new_lease(3)).await;
    let (lease, vm) = active(&store, 4, 20_001).await;
    let ending = store
        .end_lease(&lease, EndReason::Released, None, at(5))
        .await;
    let ending = ending.unwrap().unwrap();
    let row = store.vm(vm).await.unwrap().unwrap();
    store.vm_gone(&row, at(6)).await.unwrap().unwrap();
    // The lease still refers to its VM.
    assert_eq!(store.prune(at(1000)).await.unwrap(), 0);
    store.finish_lease(&ending, at(900)).await.unwrap().unwrap();
    assert_eq!(store.prune(at(800)).await.unwrap(), 0);
    assert_eq!(store.prune(at(1000)).await.unwrap(), 2);
    let (vms, leases) = store.snapshot().await.unwrap();
    assert_eq!((vms.len(), leases.len()), (2, 2));
}

#[tokio::test]
async fn everything_is_still_there_after_a_sudden_end() {
    let fixture = Fixture::new().await;
    let install = fixture.store.install_id();
    active(&fixture.store, 1, 20_000).await;
    insert(&fixture.store, &new_lease(2)).await;
    let before = fixture.store.snapshot().await.unwrap();
    // Opened again while the first has not closed it, as after a kill.
    let store = Store::open(&fixture.folder.path().join("state.db")).await;
    let store = store.unwrap();
    assert_eq!(store.snapshot().await.unwrap(), before);
    assert_eq!(store.install_id(), install);
    let other = Fixture::new().await;
    assert_ne!(other.store.install_id(), install);
    let ports: BTreeSet<u16> = store.used_ports().await.unwrap();
    assert_eq!(ports, [20_000].into());
}

#[tokio::test]
async fn every_reason_reads_back_as_it_was_written() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    let ends = [
        EndReason::Released,
        EndReason::Expired,
        EndReason::VmLost,
        EndReason::ClientGone,
        EndReason::WaitTimeout,
    ];
    for (id, reason) in (1..).zip(ends) {
        let lease = insert(&store, &new_lease(id)).await;
        store.wish_end(lease.id, reason).await.unwrap();
        let lease = store.lease(lease.id).await.unwrap().unwrap();
        assert_eq!(lease.end_wish, Some(reason));
        let ending = store.end_lease(&lease, reason, None, at(1)).await.unwrap();
        let LeasePhase::Ending { end, .. } = ending.unwrap().phase else {
            panic!("{reason:?}");
        };
        assert_eq!(end.reason, reason);
    }
    let reasons = [
        DestroyReason::LeaseEnded,
        DestroyReason::StartFailed,
        DestroyReason::ActivationFailed,
        DestroyReason::Stuck,
        DestroyReason::Interrupted,
        DestroyReason::Lost,
        DestroyReason::Surplus,
    ];
    for (id, reason) in (1..).zip(reasons) {
        let vm = planned(&store, id).await;
        let next = VmPhase::Destroying { reason };
        let vm = store.advance_vm(&vm, next, at(2)).await.unwrap().unwrap();
        assert_eq!(vm.phase, next);
        let gone = store.vm_gone(&vm, at(3)).await.unwrap().unwrap();
        assert_eq!(gone.phase, VmPhase::Gone { reason });
    }
}
