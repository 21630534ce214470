//! What the hypervisor and the guests may do wrong.

use std::time::Duration;

use remote_docker_api::EndReason;

use super::bench::Bench;
use crate::hypervisor::sim::{SimFault, Verb};
use crate::lease::LeasePhase;

/// A bench with a template, so that the next start is a lease's.
pub(super) async fn with_template() -> Bench {
    let mut bench = Bench::started().await;
    let lease = bench.ask().await;
    bench.active(lease).await;
    bench.release(lease).await;
    bench.clean().await;
    bench
}

/// Starts since the template and the lease that came with it.
fn kinds(bench: &Bench) -> Vec<&'static str> {
    bench
        .sim
        .starts()
        .into_iter()
        .skip(2)
        .map(|(_, kind)| kind)
        .collect()
}

#[tokio::test]
async fn a_failed_start_costs_its_vm_and_not_the_lease() {
    for fault in [SimFault::Fails, SimFault::FailsAfterwards, SimFault::Lies] {
        let mut bench = with_template().await;
        bench.sim.inject(Verb::Start, fault);
        let lease = bench.ask().await;
        bench
            .eventually("the first start was tried", |bench| kinds(bench).len() == 1)
            .await;
        bench
            .eventually("its failure is told", |bench| {
                !bench.status().troubles.is_empty()
            })
            .await;
        bench.pass(2).await;
        let grant = bench.active(lease).await;
        assert_eq!(kinds(&bench), ["clone", "clone"], "{fault:?}");
        bench
            .eventually("the first VM is gone", |bench| {
                bench.sim.vms() == vec![grant.vm]
            })
            .await;
        bench.release(lease).await;
        bench.clean().await;
    }
}

#[tokio::test]
async fn a_clone_that_is_not_a_machine_of_its_own_is_never_handed_out() {
    for fault in [SimFault::Lies, SimFault::Fails] {
        let mut bench = with_template().await;
        bench.sim.inject(Verb::Activate, fault);
        let lease = bench.ask().await;
        bench
            .eventually("its failure is told", |bench| {
                !bench.status().troubles.is_empty()
            })
            .await;
        let refused = bench.sim.starts()[2].0;
        bench.pass(2).await;
        assert_ne!(bench.active(lease).await.vm, refused, "{fault:?}");
        bench.release(lease).await;
        bench.clean().await;
    }
}

#[tokio::test]
async fn a_lost_machine_ends_its_lease_and_its_holder_is_told_what_it_said_last() {
    for crashes in [true, false] {
        let mut bench = with_template().await;
        let lease = bench.ask().await;
        let grant = bench.active(lease).await;
        bench.sim.say(grant.vm, "Kernel panic - not syncing\n");
        if crashes {
            bench.sim.crash(grant.vm);
        } else {
            bench.sim.vanish(grant.vm);
        }
        // Noticed by the closed channel: no time has to pass.
        assert_eq!(bench.ended(lease).await, EndReason::VmLost);
        let LeasePhase::Ended { end, .. } = bench.lease(lease).await.phase else {
            panic!("it has ended");
        };
        let detail = end.detail.expect("what happened");
        assert!(detail.starts_with(&format!("{} does not run any more", grant.vm)));
        assert_eq!(
            detail.ends_with(
                ". It said last:\na simulated machine starts\nKernel panic - not syncing\n"
            ),
            crashes,
            "{detail}"
        );
        bench.clean().await;
    }
}

#[tokio::test]
async fn gone_is_written_only_after_the_host_was_seen_clean() {
    for fault in [SimFault::Fails, SimFault::Lies] {
        let mut bench = with_template().await;
        let lease = bench.ask().await;
        let grant = bench.active(lease).await;
        bench.sim.inject(Verb::Destroy, fault);
        bench.release(lease).await;
        bench
            .eventually("the fault was met", |bench| {
                !bench.sim.has_fault(Verb::Destroy)
            })
            .await;
        assert_eq!(bench.sim.vms(), vec![grant.vm], "{fault:?}");
        let phase = bench.lease(lease).await.phase;
        assert!(
            matches!(phase, LeasePhase::Ending { .. }),
            "{fault:?}: {phase:?}"
        );
        bench
            .eventually("it is told", |bench| bench.troubles().contains("1 times"))
            .await;
        bench.pass(2).await;
        assert_eq!(bench.ended(lease).await, EndReason::Released);
        bench.clean().await;
        bench
            .eventually("nothing is wrong any more", |bench| {
                bench.status().troubles.is_empty()
            })
            .await;
    }
}

#[tokio::test]
async fn one_stuck_start_does_not_stop_the_others() {
    let mut bench = with_template().await;
    bench.sim.inject(Verb::Start, SimFault::Hangs);
    let stuck = bench.ask().await;
    bench
        .eventually("the stuck start began", |bench| kinds(bench).len() == 1)
        .await;
    let other = bench.ask().await;
    // The older lease gets the machine that was begun for the younger one; both are served in the
    // end, because the stuck one is replaced when its time is over.
    bench.active(stuck).await;
    bench.pass(61).await;
    bench.active(other).await;
}

#[tokio::test]
async fn a_host_that_cannot_be_looked_at_loses_nobody() {
    let mut bench = with_template().await;
    let lease = bench.ask().await;
    bench.active(lease).await;
    bench.sim.inject(Verb::List, SimFault::Fails);
    bench
        .eventually("the fault was met", |bench| {
            !bench.sim.has_fault(Verb::List)
        })
        .await;
    bench
        .eventually("it is told", |bench| !bench.status().is_healthy())
        .await;
    assert!(matches!(
        bench.lease(lease).await.phase,
        LeasePhase::Active(_)
    ));
    bench
        .eventually("the next look makes it good", |bench| {
            bench.status().is_healthy() && bench.status().troubles.is_empty()
        })
        .await;
}

#[tokio::test]
async fn a_slow_guest_is_waited_for() {
    let mut bench = with_template().await;
    bench
        .sim
        .inject(Verb::Activate, SimFault::Slow(Duration::from_millis(300)));
    let lease = bench.ask().await;
    bench.active(lease).await;
    assert_eq!(kinds(&bench), ["clone"]);
}

#[tokio::test]
async fn a_machine_is_not_made_from_an_image_that_was_replaced() {
    let mut bench = with_template().await;
    bench.replace_image();
    bench.ask().await;
    bench
        .eventually("the status says so", |bench| {
            bench.troubles().contains("was replaced")
        })
        .await;
    assert_eq!(kinds(&bench), Vec::<&str>::new());
}

#[tokio::test]
async fn what_an_older_look_did_not_show_yet_is_not_lost_to_a_newer_one() {
    let mut bench = with_template().await;
    let older = bench.ask().await;
    let older_vm = bench.active(older).await.vm;
    // The host is looked at before the second machine is there, and says so after a third look began.
    bench.sim.inject(Verb::List, SimFault::ReturnsLate);
    let third = SimFault::Slow(Duration::from_secs(3600));
    bench.sim.hang_up(older_vm);
    bench
        .eventually("it is looked at", |bench| !bench.sim.has_fault(Verb::List))
        .await;
    let younger = bench.ask().await;
    let younger_vm = bench.active(younger).await.vm;
    bench.sim.inject(Verb::List, third);
    bench.sim.hang_up(younger_vm);
    bench
        .eventually("it is looked at again", |bench| {
            !bench.sim.has_fault(Verb::List)
        })
        .await;
    bench.sim.let_go();
    bench.goes_round().await;
    for lease in [older, younger] {
        let phase = bench.lease(lease).await.phase;
        assert!(matches!(phase, LeasePhase::Active(_)), "{phase:?}");
    }
}
