//! What guests say that they run out of.

use remote_docker_api::EndReason;
use remote_docker_api::EventKind::{self, DiskFull, DiskLow, OutOfMemory};

use super::*;
use crate::store::MOST_TROUBLES;
use crate::store::troubles::MOST_KILLS;

async fn told(store: &Store, lease: LeaseId) -> Vec<(EventKind, String)> {
    let events = store.troubles(lease).await.unwrap().into_iter();
    events
        .map(|event| (event.kind, event.detail.unwrap_or_default()))
        .collect()
}

#[tokio::test]
async fn the_holder_of_a_machine_is_told_and_nobody_else() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let (lease, vm) = active(store, 1, 20_001).await;
    let (other, _) = active(store, 2, 20_002).await;
    let row = store
        .tell_trouble(vm, DiskLow, "92 %", at(9))
        .await
        .unwrap();
    let row = row.unwrap();
    assert_eq!((row.id, row.troubles), (lease.id, 1));
    // Who saw it as it was plans again.
    assert!(row.generation > lease.generation);
    assert_eq!(told(store, lease.id).await, [(DiskLow, "92 %".to_owned())]);
    assert_eq!(told(store, other.id).await, []);
    let events = store.events(lease.id, 0).await.unwrap();
    let last = events.last().unwrap();
    assert_eq!((last.seq, last.kind, last.at), (3, DiskLow, at(9)));

    let ending = store.end_lease(&row, EndReason::Released, None, at(10));
    ending.await.unwrap().unwrap();
    let late = store.tell_trouble(vm, OutOfMemory, "x", at(11)).await;
    assert_eq!(late.unwrap(), None);
    let nobody = VmId::from_bits(77);
    let nobodys = store.tell_trouble(nobody, OutOfMemory, "x", at(11)).await;
    assert_eq!(nobodys.unwrap(), None);
    assert_eq!(told(store, lease.id).await.len(), 1);
}

const LAST: &str = "the last such warning";

#[tokio::test]
async fn a_guest_that_complains_without_end_is_heard_so_often_and_a_restart_does_not_begin_anew() {
    let mut fixture = Fixture::new().await;
    let (lease, vm) = active(&fixture.store, 1, 20_001).await;
    // Handed over together, so that many share a transaction.
    let store = &fixture.store;
    let complaints = (0..4 * MOST_TROUBLES).map(|_| store.tell_trouble(vm, DiskLow, "x", at(9)));
    let heard = futures_util::future::join_all(complaints).await;
    let heard = heard
        .into_iter()
        .filter(|row| row.as_ref().unwrap().is_some());
    assert_eq!(heard.count(), MOST_TROUBLES as usize);

    fixture = fixture.reopen().await;
    let store = &fixture.store;
    for kind in [DiskLow, OutOfMemory] {
        let again = store.tell_trouble(vm, kind, "x", at(10)).await.unwrap();
        assert_eq!(again, None);
    }
    let told = told(store, lease.id).await;
    assert_eq!(told.len(), MOST_TROUBLES as usize);
    let (last, before) = told.split_last().unwrap();
    assert!(last.1.contains(LAST), "{last:?}");
    assert!(before.iter().all(|(_, detail)| detail == "x"), "{before:?}");
    assert_eq!(
        store.events(lease.id, 0).await.unwrap().len(),
        2 + told.len()
    );
}

#[tokio::test]
async fn processes_that_are_killed_all_the_time_leave_room_for_what_is_told_of_the_disk() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let (lease, vm) = active(store, 1, 20_001).await;
    let heard = async |kind, seconds| {
        let row = store.tell_trouble(vm, kind, "x", at(seconds)).await;
        row.unwrap().is_some()
    };
    for _ in 0..MOST_KILLS {
        assert!(heard(OutOfMemory, 9).await);
    }
    for _ in MOST_KILLS..MOST_TROUBLES {
        assert!(!heard(OutOfMemory, 10).await);
        assert!(heard(DiskFull, 10).await);
    }
    assert!(!heard(DiskFull, 11).await);

    let told = told(store, lease.id).await;
    let (killed, full) = told.split_at(MOST_KILLS as usize);
    for (some, kind, count) in [
        (killed, OutOfMemory, MOST_KILLS),
        (full, DiskFull, MOST_TROUBLES - MOST_KILLS),
    ] {
        assert_eq!(some.len(), count as usize);
        assert!(some.iter().all(|(it, _)| *it == kind), "{some:?}");
        let (last, before) = some.split_last().unwrap();
        assert!(last.1.contains(LAST), "{last:?}");
        assert!(before.iter().all(|(_, detail)| detail == "x"), "{before:?}");
    }
}
