//! Several writers at once: tasks, and two stores on one file as two processes would have them.

use std::sync::Arc;

use remote_docker_api::EndReason;
use tokio::task::JoinSet;

use super::*;
use crate::lease::{DestroyReason, LeasePhase};
use crate::store::Wish;

const ROUNDS: u64 = 20;

/// Two stores on one file.
async fn pair() -> ([Arc<Store>; 2], TempDir) {
    let Fixture { store, folder } = Fixture::new().await;
    let other = Store::open(&folder.path().join("state.db")).await.unwrap();
    ([Arc::new(store), Arc::new(other)], folder)
}

/// How many of the tasks answered `true`.
async fn winners(mut tasks: JoinSet<bool>) -> usize {
    let mut count = 0;
    while let Some(won) = tasks.join_next().await {
        count += usize::from(won.unwrap());
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_vm_goes_to_one_of_many_leases() {
    let (stores, _folder) = pair().await;
    for round in 1..=ROUNDS {
        let vm = ready(&stores[0], round).await;
        let mut tasks = JoinSet::new();
        for claim in 0..6 {
            let store = Arc::clone(&stores[(claim % 2) as usize]);
            let id = round * 100 + claim;
            let lease = insert(&store, &new_lease(id)).await;
            let grant = grant(vm.id, 20_000 + id as u16);
            let vm = vm.clone();
            tasks.spawn(async move {
                let answer = store.assign(&lease, &vm, &grant, at(3)).await;
                answer.unwrap().is_some()
            });
        }
        assert_eq!(winners(tasks).await, 1);
        // Who lost has no trace of it.
        let (vms, leases) = stores[1].snapshot().await.unwrap();
        let held: Vec<_> = leases
            .iter()
            .filter(|lease| lease.phase != LeasePhase::Waiting)
            .map(|lease| lease.id)
            .collect();
        assert_eq!(held.len(), round as usize);
        let row = vms.iter().find(|row| row.id == vm.id).unwrap();
        let VmPhase::Assigned { lease } = row.phase else {
            panic!("{row:?}");
        };
        assert!(held.contains(&lease));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_lease_gets_one_of_many_vms_and_a_port_has_one_owner() {
    let (stores, _folder) = pair().await;
    for round in 1..=ROUNDS {
        let lease = insert(&stores[0], &new_lease(round)).await;
        let mut tasks = JoinSet::new();
        for claim in 0..4 {
            let store = Arc::clone(&stores[(claim % 2) as usize]);
            let vm = ready(&store, round * 100 + claim).await;
            let lease = lease.clone();
            tasks.spawn(async move {
                let grant = grant(vm.id, 20_000 + (round * 100 + claim) as u16);
                let answer = store.assign(&lease, &vm, &grant, at(3)).await;
                answer.unwrap().is_some()
            });
        }
        assert_eq!(winners(tasks).await, 1);
    }
    let mut tasks = JoinSet::new();
    for claim in 0..6 {
        let store = Arc::clone(&stores[(claim % 2) as usize]);
        let vm = ready(&store, 10_000 + claim).await;
        let lease = insert(&store, &new_lease(10_000 + claim)).await;
        tasks.spawn(async move {
            let answer = store
                .assign(&lease, &vm, &grant(vm.id, 19_999), at(3))
                .await;
            answer.unwrap().is_some()
        });
    }
    assert_eq!(winners(tasks).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_never_exceed_the_budget() {
    let (stores, _folder) = pair().await;
    let tight = Budget {
        memory_mib: 7 * 1024 + 512,
        slots: 100,
    };
    let mut tasks = JoinSet::new();
    for id in 1..=30 {
        let store = Arc::clone(&stores[(id % 2) as usize]);
        tasks.spawn(async move {
            let id = VmId::from_bits(id);
            let made = store.create_vm(id, &key(), 1024, at(1), &tight).await;
            made.unwrap().is_some()
        });
    }
    assert_eq!(winners(tasks).await, 7);
    let (vms, _) = stores[0].snapshot().await.unwrap();
    let mut slots: Vec<u16> = vms.iter().map(|vm| vm.slot.0).collect();
    slots.sort_unstable();
    assert_eq!(slots, [1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_many_makes_each_step() {
    let (stores, _folder) = pair().await;
    let (lease, vm) = active(&stores[0], 1, 20_000).await;
    let mut tasks = JoinSet::new();
    for claim in 0..8_usize {
        let store = Arc::clone(&stores[claim % 2]);
        tasks.spawn(async move {
            let wish = store
                .wish_end(LeaseId::from_bits(1), EndReason::Released)
                .await;
            wish.unwrap() == Wish::Recorded
        });
    }
    assert_eq!(winners(tasks).await, 1);

    let lease = stores[0].lease(lease.id).await.unwrap().unwrap();
    let mut tasks = JoinSet::new();
    for claim in 0..8_usize {
        let (store, lease) = (Arc::clone(&stores[claim % 2]), lease.clone());
        tasks.spawn(async move {
            let ended = store
                .end_lease(&lease, EndReason::Released, None, at(5))
                .await;
            ended.unwrap().is_some()
        });
    }
    assert_eq!(winners(tasks).await, 1);

    let vm = stores[1].vm(vm).await.unwrap().unwrap();
    let reason = DestroyReason::LeaseEnded;
    assert_eq!(vm.phase, VmPhase::Destroying { reason });
    let mut tasks = JoinSet::new();
    for claim in 0..8_usize {
        let (store, vm) = (Arc::clone(&stores[claim % 2]), vm.clone());
        tasks.spawn(async move { store.vm_gone(&vm, at(6)).await.unwrap().is_some() });
    }
    assert_eq!(winners(tasks).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_snapshot_never_shows_half_of_a_step() {
    let (stores, _folder) = pair().await;
    let writer = Arc::clone(&stores[0]);
    let writing = tokio::spawn(async move {
        for id in 1..=ROUNDS {
            let (lease, _) = active(&writer, id, 20_000 + id as u16).await;
            let ended = writer
                .end_lease(&lease, EndReason::Released, None, at(5))
                .await;
            assert!(ended.unwrap().is_some());
        }
    });
    let mut seen_active = 0;
    while !writing.is_finished() {
        let (vms, leases) = stores[1].snapshot().await.unwrap();
        for lease in &leases {
            if let LeasePhase::Active(grant) = &lease.phase {
                seen_active += 1;
                let vm = vms.iter().find(|vm| vm.id == grant.vm).unwrap();
                assert_eq!(vm.phase, VmPhase::Assigned { lease: lease.id });
            }
        }
        for vm in &vms {
            if let VmPhase::Assigned { lease } = vm.phase {
                let lease = leases.iter().find(|row| row.id == lease).unwrap();
                assert!(matches!(lease.phase, LeasePhase::Active(_)), "{lease:?}");
            }
        }
    }
    writing.await.unwrap();
    assert!(seen_active > 0, "the reader never looked at the right time");
}
