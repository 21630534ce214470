//! A server that is told to stop: what goes and what stays.

use std::time::Duration;

use remote_docker_api::EndReason;

use super::bench::{Bench, key};
use crate::hypervisor::sim::{SimFault, Verb};
use crate::lease::LeasePhase;
use crate::reconcile::closing::LEAVE_LIMIT;

#[tokio::test]
async fn a_template_that_is_being_built_is_called_off() {
    for verb in [Verb::Start, Verb::Channel, Verb::Snapshot] {
        let mut bench = Bench::new().await;
        bench.settings.policy.prebuild.insert(key());
        bench.sim.inject(verb, SimFault::Hangs);
        bench.start().await;
        bench
            .eventually("it hangs", |bench| !bench.sim.has_fault(verb))
            .await;
        bench.tell_to_stop();
        assert_eq!(bench.stopped().await, 0, "{verb:?}");
        assert_eq!(bench.sim.vms(), [], "{verb:?}");
        assert_eq!(
            bench.templates(),
            Vec::<std::path::PathBuf>::new(),
            "{verb:?}"
        );
    }
}

#[tokio::test]
async fn what_serves_nobody_goes_and_what_serves_somebody_stays() {
    // One machine on its way, one that is given its identity, one that is ready and unwanted.
    for fault in [Some(Verb::Start), Some(Verb::Activate), None] {
        let mut bench = Bench::started().await;
        let kept = bench.ask().await;
        let grant = bench.active(kept).await;
        let other = match fault {
            Some(verb) => {
                bench.sim.inject(verb, SimFault::Hangs);
                let other = bench.ask().await;
                bench
                    .eventually("it hangs", |bench| !bench.sim.has_fault(verb))
                    .await;
                other
            }
            None => {
                bench
                    .sim
                    .inject(Verb::Activate, SimFault::Slow(Duration::from_millis(200)));
                let other = bench.ask().await;
                bench
                    .eventually("it is on its way", |bench| {
                        !bench.sim.has_fault(Verb::Activate)
                    })
                    .await;
                bench.release(other).await;
                bench.ended(other).await;
                bench.ready_one().await;
                other
            }
        };
        let began = std::time::Instant::now();
        bench.tell_to_stop();
        assert_eq!(bench.stopped().await, 0, "{fault:?}");
        assert!(began.elapsed() < LEAVE_LIMIT, "{fault:?}");
        assert_eq!(bench.sim.vms(), [grant.vm], "{fault:?}");
        let (vms, _) = bench.store.snapshot().await.unwrap();
        assert_eq!(vms.len(), 1, "{fault:?}: {vms:?}");

        bench.start().await;
        let phase = bench.lease(kept).await.phase;
        assert_eq!(phase, LeasePhase::Active(Box::new(grant)), "{fault:?}");
        if fault.is_some() {
            // It waited on, and is served by the next start.
            bench.active(other).await;
            bench.release(other).await;
        }
        bench.release(kept).await;
        bench.clean().await;
    }
}

#[tokio::test]
async fn who_waited_on_the_line_is_given_up() {
    let mut bench = Bench::started().await;
    bench.sim.inject(Verb::Start, SimFault::Hangs);
    let lease = bench.ask_attended().await;
    bench
        .eventually("it hangs", |bench| !bench.sim.has_fault(Verb::Start))
        .await;
    bench.tell_to_stop();
    assert_eq!(bench.stopped().await, 0);
    let phase = bench.lease(lease).await.phase;
    let LeasePhase::Ended { end, .. } = phase else {
        panic!("{phase:?}");
    };
    assert_eq!(end.reason, EndReason::ClientGone);
}

#[tokio::test]
async fn a_machine_that_cannot_be_destroyed_does_not_keep_the_server() {
    let mut bench = Bench::started().await;
    let lease = bench.ask().await;
    bench.active(lease).await;
    for _ in 0..100 {
        bench.sim.inject(Verb::Destroy, SimFault::Fails);
    }
    bench.release(lease).await;
    bench
        .eventually("it is told", |bench| {
            bench.troubles().contains("could not be destroyed")
        })
        .await;
    let began = std::time::Instant::now();
    bench.tell_to_stop();
    assert_eq!(bench.stopped().await, 1);
    assert!(began.elapsed() < LEAVE_LIMIT * 3 / 2);
}

#[tokio::test]
async fn a_drained_server_waits_for_its_leases() {
    let mut bench = Bench::new().await;
    bench.settings.drain = Some(Duration::from_secs(600));
    bench.start().await;
    let lease = bench.ask().await;
    let grant = bench.active(lease).await;
    bench.tell_to_stop();
    bench
        .eventually("it says that it drains", |bench| {
            bench.status().closing.is_some()
        })
        .await;
    let refused = bench.ask().await;
    assert_eq!(bench.ended(refused).await, EndReason::Drained);
    bench.pass(599).await;
    let phase = bench.lease(lease).await.phase;
    assert_eq!(phase, LeasePhase::Active(Box::new(grant)));
    bench.release(lease).await;
    assert_eq!(bench.stopped().await, 0);
    assert_eq!(ended_for(&bench, lease).await, EndReason::Released);
    assert_eq!(bench.sim.vms(), []);
}

#[tokio::test]
async fn a_drained_server_ends_what_lasts_too_long() {
    let mut bench = Bench::new().await;
    bench.settings.drain = Some(Duration::from_secs(600));
    bench.start().await;
    let lease = bench.ask().await;
    bench.active(lease).await;
    bench.tell_to_stop();
    bench
        .eventually("it says that it drains", |bench| {
            bench.status().closing.is_some()
        })
        .await;
    bench.pass(600).await;
    assert_eq!(bench.stopped().await, 0);
    assert_eq!(ended_for(&bench, lease).await, EndReason::Drained);
    assert_eq!(bench.sim.vms(), []);
}

async fn ended_for(bench: &Bench, lease: remote_docker_api::LeaseId) -> EndReason {
    match bench.lease(lease).await.phase {
        LeasePhase::Ended { end, .. } => end.reason,
        other => panic!("{other:?}"),
    }
}
