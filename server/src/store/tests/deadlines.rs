//! Heartbeats, extensions, warnings, retried requests, and the events that they leave.

use remote_docker_api::{EndReason, EventKind};

use super::*;
use crate::audit::Asked;
use crate::store::{Idempotency, Moved};

fn expecting_heartbeats(id: u64) -> NewLease {
    NewLease {
        keepalive_s: Some(30),
        ..new_lease(id)
    }
}

fn expires_at(row: &LeaseRow) -> OffsetDateTime {
    match &row.phase {
        LeasePhase::Active(grant) => grant.expires_at,
        other => panic!("not active: {other:?}"),
    }
}

async fn kinds(store: &Store, lease: LeaseId) -> Vec<EventKind> {
    let events = store.events(lease, 0).await.unwrap();
    let numbers: Vec<u64> = events.iter().map(|event| event.seq).collect();
    let expected: Vec<u64> = (1..).take(events.len()).collect();
    assert_eq!(numbers, expected);
    events.into_iter().map(|event| event.kind).collect()
}

async fn make_active(store: &Store, new: &NewLease) -> LeaseRow {
    let id = new.id.bits();
    let vm = ready(store, id).await;
    let lease = insert(store, new).await;
    let port = 20_000 + u16::try_from(id).unwrap();
    let lease = store.assign(&lease, &vm, &grant(vm.id, port), at(3)).await;
    lease.unwrap().unwrap()
}

#[tokio::test]
async fn an_extension_moves_the_end_forward_only() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let lease = make_active(store, &new_lease(1)).await;
    for (until, expected) in [(5000, 5000), (5000, 5000), (4000, 5000), (6000, 6000)] {
        match store
            .extend(lease.id, at(until), at(10), &Asked::default())
            .await
            .unwrap()
        {
            Moved::Done(row) => assert_eq!(expires_at(&row), at(expected)),
            other => panic!("{other:?}"),
        }
    }
    let told = kinds(store, lease.id).await;
    use EventKind::{Extended, Queued, Ready};
    assert_eq!(told, [Queued, Ready, Extended, Extended]);
}

#[tokio::test]
async fn an_extension_and_an_end_never_both_win() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let seen = make_active(store, &new_lease(1)).await;
    store
        .extend(seen.id, at(9000), at(10), &Asked::default())
        .await
        .unwrap();
    // The reconciler decided on what it saw before.
    let ended = store
        .end_lease(&seen, EndReason::Expired, None, at(11))
        .await
        .unwrap();
    assert_eq!(ended, None);

    let seen = store.lease(seen.id).await.unwrap().unwrap();
    let ended = store
        .end_lease(&seen, EndReason::Released, None, at(12))
        .await;
    assert!(ended.unwrap().is_some());
    let late = store
        .extend(seen.id, at(9999), at(13), &Asked::default())
        .await
        .unwrap();
    assert!(matches!(late, Moved::NotActive(_)), "{late:?}");
}

#[tokio::test]
async fn a_heartbeat_is_kept_and_wins_against_an_end_for_want_of_it() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let seen = make_active(store, &expecting_heartbeats(1)).await;
    let beat = |moment| async move {
        match store.heartbeat(seen.id, at(moment)).await.unwrap() {
            Moved::Done(row) => match row.phase {
                LeasePhase::Active(grant) => grant.heartbeat_at,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(beat(20).await, at(20));
    // The clock was set back.
    assert_eq!(beat(7).await, at(20));
    let ended = store
        .end_lease(&seen, EndReason::KeepaliveMissed, None, at(40))
        .await
        .unwrap();
    assert_eq!(ended, None);
    // It is no reason not to end it when its machine is gone.
    let ended = store
        .end_lease(&seen, EndReason::VmLost, None, at(41))
        .await
        .unwrap();
    assert!(ended.is_some());
}

#[tokio::test]
async fn a_wish_wins_against_an_end_that_was_decided_before() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let seen = make_active(store, &new_lease(1)).await;
    let released = EndReason::Released;
    store.wish_end(seen.id, released).await.unwrap();
    let ended = store.end_lease(&seen, EndReason::Expired, None, at(11));
    assert_eq!(ended.await.unwrap(), None);
    let seen = store.lease(seen.id).await.unwrap().unwrap();
    let ended = store.end_lease(&seen, released, None, at(12)).await;
    assert!(ended.unwrap().is_some());
}

#[tokio::test]
async fn heartbeats_that_nobody_expects_are_told_so() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let active = make_active(store, &new_lease(1)).await;
    let answer = store.heartbeat(active.id, at(9)).await.unwrap();
    assert_eq!(answer, Moved::NoKeepalive);
    let waits = insert(store, &expecting_heartbeats(2)).await;
    let answer = store.heartbeat(waits.id, at(9)).await.unwrap();
    assert_eq!(answer, Moved::NotActive(waits));
    let answer = store.heartbeat(LeaseId::from_bits(99), at(9)).await;
    assert_eq!(answer.unwrap(), Moved::Unknown);
    store
        .wish_end(active.id, EndReason::Released)
        .await
        .unwrap();
    let answer = store
        .extend(active.id, at(9999), at(9), &Asked::default())
        .await
        .unwrap();
    assert!(matches!(answer, Moved::NotActive(_)), "{answer:?}");
}

#[tokio::test]
async fn a_warning_is_written_once_for_each_end() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let seen = make_active(store, &new_lease(1)).await;
    let warned = store.warn(&seen, at(3603), "ends in 60 s", at(3543)).await;
    let warned = warned.unwrap().unwrap();
    match &warned.phase {
        LeasePhase::Active(grant) => assert_eq!(grant.warned_of, Some(at(3603))),
        other => panic!("{other:?}"),
    }
    let again = store.warn(&seen, at(3603), "ends in 60 s", at(3543)).await;
    assert_eq!(again.unwrap(), None);
    let events = store.events(seen.id, 2).await.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].detail.as_deref(), Some("ends in 60 s"));
}

#[tokio::test]
async fn the_same_request_makes_one_lease_and_survives_its_end() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let request = |id, project: &str, digest: &str| NewLease {
        project: project.to_owned(),
        idempotency: Some(Idempotency {
            key: "build 17".to_owned(),
            digest: digest.to_owned(),
        }),
        ..new_lease(id)
    };
    let first = insert(store, &request(1, "a", "d1")).await;
    let again = store.insert_lease(&request(2, "a", "d1")).await.unwrap();
    assert_eq!(again, Inserted::Known(first.clone()));
    let other = store.insert_lease(&request(3, "a", "d2")).await.unwrap();
    assert_eq!(other, Inserted::Conflict);
    // Names are each project's own.
    insert(store, &request(4, "b", "d1")).await;
    store
        .end_lease(&first, EndReason::WaitTimeout, Some("why"), at(5))
        .await
        .unwrap();
    match store.insert_lease(&request(5, "a", "d1")).await.unwrap() {
        Inserted::Known(row) => assert_eq!(row.id, first.id),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_whole_life_is_told_in_order_and_forgotten_with_the_lease() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let lease = insert(store, &new_lease(1)).await;
    let progress = [
        (lease.id, EventKind::Cloning),
        (LeaseId::from_bits(77), EventKind::Cloning),
    ];
    store.note_progress(&progress, at(1)).await.unwrap();
    let ending = store
        .end_lease(&lease, EndReason::StartFailed, Some("no kernel"), at(5))
        .await;
    let ending = ending.unwrap().unwrap();
    store.note_progress(&progress, at(6)).await.unwrap();
    store.finish_lease(&ending, at(7)).await.unwrap().unwrap();
    use EventKind::{Cloning, Ended, Ending, Queued};
    assert_eq!(
        kinds(store, lease.id).await,
        [Queued, Cloning, Ending, Ended]
    );
    let events = store.events(lease.id, 2).await.unwrap();
    assert_eq!(events[0].detail.as_deref(), Some("no kernel"));
    assert_eq!(events[0].at, at(5));
    store.prune(at(100)).await.unwrap();
    assert_eq!(store.events(lease.id, 0).await.unwrap(), []);
}
