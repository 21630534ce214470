//! A server that ends anywhere and starts again.

use std::net::{Ipv4Addr, TcpStream};

use remote_docker_api::EndReason;

use super::bench::Bench;
use crate::hypervisor::sim::{SimFault, Verb};
use crate::lease::LeasePhase;

#[tokio::test]
async fn an_active_lease_survives_a_crash_and_a_stop() {
    let mut bench = Bench::started().await;
    let lease = bench.ask_for(600).await;
    let grant = bench.active(lease).await;
    for crash in [true, false] {
        if crash {
            bench.crash().await;
        } else {
            bench.stop().await;
        }
        bench
            .eventually("the port is closed", |_| {
                TcpStream::connect((Ipv4Addr::LOCALHOST, grant.port)).is_err()
            })
            .await;
        bench.start().await;
        bench
            .eventually("the port is open again", |_| {
                TcpStream::connect((Ipv4Addr::LOCALHOST, grant.port)).is_ok()
            })
            .await;
        assert_eq!(
            bench.lease(lease).await.phase,
            LeasePhase::Active(Box::new(grant.clone()))
        );
    }
    bench.pass(600).await;
    assert_eq!(bench.ended(lease).await, EndReason::Expired);
    bench.clean().await;
}

#[tokio::test]
async fn a_machine_that_was_being_made_is_replaced() {
    for verb in [Verb::Start, Verb::Activate] {
        let mut bench = Bench::started().await;
        let first = bench.ask().await;
        bench.active(first).await;
        bench.sim.inject(verb, SimFault::Hangs);
        let lease = bench.ask().await;
        bench
            .eventually("it hangs", |bench| !bench.sim.has_fault(verb))
            .await;
        let interrupted = bench.sim.starts().last().unwrap().0;
        bench.crash().await;
        bench.start().await;
        let grant = bench.active(lease).await;
        assert_ne!(grant.vm, interrupted, "{verb:?}");
        bench
            .eventually("it is gone", |bench| {
                !bench.sim.vms().contains(&interrupted)
            })
            .await;
        bench.release(first).await;
        bench.release(lease).await;
        bench.clean().await;
    }
}

#[tokio::test]
async fn a_template_that_was_being_built_is_swept_and_built_again() {
    let mut bench = Bench::started().await;
    bench.sim.inject(Verb::Snapshot, SimFault::Hangs);
    let lease = bench.ask().await;
    bench
        .eventually("it hangs", |bench| !bench.sim.has_fault(Verb::Snapshot))
        .await;
    let orphan = bench.sim.vms()[0];
    bench.crash().await;
    bench.start().await;
    bench.active(lease).await;
    bench
        .eventually("the orphan is swept", |bench| {
            !bench.sim.vms().contains(&orphan)
        })
        .await;
    let kinds: Vec<_> = bench
        .sim
        .starts()
        .into_iter()
        .map(|(_, kind)| kind)
        .collect();
    assert_eq!(kinds, ["template", "template", "clone"]);
    bench.release(lease).await;
    bench.clean().await;
}

#[tokio::test]
async fn a_template_is_found_again() {
    let mut bench = Bench::started().await;
    let lease = bench.ask().await;
    bench.active(lease).await;
    bench.stop().await;
    bench.start().await;
    let second = bench.ask().await;
    bench.active(second).await;
    let kinds: Vec<_> = bench
        .sim
        .starts()
        .into_iter()
        .map(|(_, kind)| kind)
        .collect();
    assert_eq!(kinds, ["template", "clone", "clone"]);
}

#[tokio::test]
async fn a_machine_lost_during_the_outage_is_noticed() {
    let mut bench = Bench::started().await;
    let lease = bench.ask().await;
    let grant = bench.active(lease).await;
    bench.crash().await;
    bench.sim.vanish(grant.vm);
    bench.start().await;
    assert_eq!(bench.ended(lease).await, EndReason::VmLost);
    bench.clean().await;
}

#[tokio::test]
async fn a_destruction_that_was_cut_short_is_finished() {
    let mut bench = Bench::started().await;
    let lease = bench.ask().await;
    bench.active(lease).await;
    bench.sim.inject(Verb::Destroy, SimFault::Hangs);
    bench.release(lease).await;
    bench
        .eventually("it hangs", |bench| !bench.sim.has_fault(Verb::Destroy))
        .await;
    bench.crash().await;
    bench.start().await;
    assert_eq!(bench.ended(lease).await, EndReason::Released);
    bench.clean().await;
}
