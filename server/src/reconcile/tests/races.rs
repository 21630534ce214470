//! Two things at once, and a server that dies between them: each has one outcome, and nothing is left
//! of the other.

use remote_docker_api::EndReason;

use super::bench::{Ask, Bench, key};
use super::faults::with_template;
use crate::audit::Asked;
use crate::hypervisor::sim::{SimFault, Verb};
use crate::lease::LeasePhase;
use crate::store::Moved;

#[tokio::test]
async fn a_lease_given_back_while_its_machine_is_made_ends_at_once_and_leaves_nothing() {
    for (verb, dies) in [
        (Verb::Start, false),
        (Verb::Start, true),
        (Verb::Activate, false),
        (Verb::Activate, true),
    ] {
        let mut bench = with_template().await;
        bench.sim.inject(verb, SimFault::Hangs);
        let lease = bench.ask().await;
        bench
            .eventually("it hangs", |bench| !bench.sim.has_fault(verb))
            .await;
        bench.release(lease).await;
        if dies {
            bench.crash().await;
            bench.start().await;
        }
        assert_eq!(bench.ended(lease).await, EndReason::Released, "{verb:?}");
        let LeasePhase::Ended { end, .. } = bench.lease(lease).await.phase else {
            panic!("it had ended");
        };
        assert_eq!(end.ready_at, None);
        // What hung comes back, when the time that it had is over.
        bench.pass(61).await;
        bench.sim.let_go();
        for vm in bench.sim.vms() {
            bench.sim.hang_up(vm);
        }
        bench.clean().await;
    }
}

#[tokio::test]
async fn a_release_that_nobody_saw_yet_is_carried_out_after_a_crash() {
    let mut bench = Bench::started().await;
    let lease = bench.ask().await;
    bench.active(lease).await;
    // Nothing runs between the two.
    bench.crash().await;
    bench.release(lease).await;
    bench.start().await;
    assert_eq!(bench.ended(lease).await, EndReason::Released);
    bench.clean().await;
}

#[tokio::test]
async fn an_extension_that_meets_the_expiry_holds_or_comes_too_late() {
    let mut bench = Bench::started().await;
    for round in 0..10 {
        let lease = bench.ask_for(100).await;
        bench.active(lease).await;
        let until = bench.now() + time::Duration::seconds(300);
        let nobody = Asked::default();
        let extension = bench.store.extend(lease, until, bench.now(), &nobody);
        let moved = if round % 2 == 0 {
            tokio::join!(bench.pass(100), extension).1
        } else {
            tokio::join!(extension, bench.pass(100)).0
        };
        match moved.unwrap() {
            Moved::Done(row) => {
                assert!(matches!(row.phase, LeasePhase::Active(_)), "{row:?}");
                bench.goes_round().await;
                assert_eq!(bench.active(lease).await.expires_at, until);
                bench.release(lease).await;
                assert_eq!(bench.ended(lease).await, EndReason::Released);
            }
            Moved::NotActive(_) => assert_eq!(bench.ended(lease).await, EndReason::Expired),
            other => panic!("{other:?}"),
        }
    }
    bench.clean().await;
}

#[tokio::test]
async fn an_extension_and_a_heartbeat_outlive_a_crash() {
    let mut bench = Bench::started().await;
    let lease = bench
        .ask_with(Ask {
            ttl_s: 100,
            keepalive_s: Some(1000),
            ..Ask::default()
        })
        .await;
    bench.active(lease).await;
    bench.pass(50).await;
    let until = bench.now() + time::Duration::seconds(300);
    for moved in [
        bench.store.heartbeat(lease, bench.now()).await,
        bench
            .store
            .extend(lease, until, bench.now(), &Asked::default())
            .await,
    ] {
        assert!(matches!(moved, Ok(Moved::Done(_))), "{moved:?}");
    }
    let before = bench.active(lease).await;
    bench.crash().await;
    bench.pass(200).await;
    bench.start().await;
    bench.goes_round().await;
    assert_eq!(bench.active(lease).await, before);
    bench.pass(100).await;
    assert_eq!(bench.ended(lease).await, EndReason::Expired);
}

#[tokio::test]
async fn a_lease_whose_time_ran_out_while_no_server_ran_ends_at_the_next_start() {
    let mut bench = Bench::started().await;
    let lease = bench.ask_for(100).await;
    bench.active(lease).await;
    bench.crash().await;
    bench.pass(100).await;
    bench.start().await;
    assert_eq!(bench.ended(lease).await, EndReason::Expired);
    bench.clean().await;
}

#[tokio::test]
async fn one_machine_in_stock_goes_to_one_of_those_who_ask_at_once() {
    let mut bench = Bench::new().await;
    bench.settings.policy.targets.insert(key(), 1);
    bench.start().await;
    bench.ready_one().await;
    bench.pass(1).await;
    let leases = [bench.ask().await, bench.ask().await, bench.ask().await];
    let mut grants = Vec::new();
    for lease in leases {
        grants.push(bench.active(lease).await);
    }
    let vms: std::collections::BTreeSet<_> = grants.iter().map(|grant| grant.vm).collect();
    assert_eq!(vms.len(), 3);
    let warm = grants.iter().filter(|grant| grant.warm);
    assert_eq!(warm.count(), 1, "{grants:?}");
}

#[tokio::test]
async fn a_server_that_dies_while_one_machine_is_asked_for_twice_gives_it_to_one() {
    let mut bench = Bench::new().await;
    bench.settings.policy.targets.insert(key(), 1);
    bench.start().await;
    for _ in 0..5 {
        bench.ready_one().await;
        let leases = [bench.ask().await, bench.ask().await];
        bench.crash().await;
        bench.start().await;
        let [first, second] = [bench.active(leases[0]).await, bench.active(leases[1]).await];
        assert_ne!(first.vm, second.vm);
        assert_ne!(first.port, second.port);
        for lease in leases {
            bench.release(lease).await;
            bench.ended(lease).await;
        }
    }
}

#[tokio::test]
async fn heartbeats_do_not_keep_a_lease_whose_time_is_over() {
    let mut bench = Bench::started().await;
    let lease = bench
        .ask_with(Ask {
            ttl_s: 100,
            keepalive_s: Some(30),
            ..Ask::default()
        })
        .await;
    bench.active(lease).await;
    bench.pass_unseen(100);
    let now = bench.now();
    // As fast as they are taken, from several at once.
    let (store, end) = (
        bench.store.clone(),
        tokio_util::sync::CancellationToken::new(),
    );
    let beats: Vec<_> = (0..4)
        .map(|_| {
            let (store, end) = (store.clone(), end.clone());
            tokio::spawn(async move {
                while !end.is_cancelled() {
                    let moved = store.heartbeat(lease, now).await.unwrap();
                    assert!(matches!(moved, Moved::Done(_) | Moved::NotActive(_)));
                }
            })
        })
        .collect();
    assert_eq!(bench.ended(lease).await, EndReason::Expired);
    end.cancel();
    for beat in beats {
        beat.await.unwrap();
    }
    let late = bench.store.heartbeat(lease, now).await;
    assert!(matches!(late, Ok(Moved::NotActive(_))), "{late:?}");
    bench.clean().await;
}
