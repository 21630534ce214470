//! The ordinary life of leases.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use remote_docker_api::EndReason;

use super::bench::{Bench, key};
use crate::hypervisor::sim::{SimFault, Verb};
use crate::lease::LeasePhase;

#[tokio::test]
async fn a_lease_gets_a_clone_and_leaves_nothing() {
    let mut bench = Bench::started().await;
    let lease = bench.ask().await;
    let grant = bench.active(lease).await;
    assert_eq!(bench.sim.vms(), vec![grant.vm]);
    let kinds: Vec<_> = bench
        .sim
        .starts()
        .into_iter()
        .map(|(_, kind)| kind)
        .collect();
    assert_eq!(kinds, ["template", "clone"]);
    assert!(!grant.warm);
    assert_eq!(
        grant.expires_at,
        bench.now() + time::Duration::seconds(3600)
    );
    let steps: Vec<_> = grant
        .timings
        .iter()
        .map(|timing| timing.step.as_str())
        .collect();
    assert_eq!(steps, ["queue", "simulate", "activate", "serve", "assign"]);
    TcpStream::connect((Ipv4Addr::LOCALHOST, grant.port)).unwrap();

    bench.release(lease).await;
    assert_eq!(bench.ended(lease).await, EndReason::Released);
    bench.clean().await;
}

#[tokio::test]
async fn leases_share_a_template_and_nothing_else() {
    let mut bench = Bench::started().await;
    let (first, second) = (bench.ask().await, bench.ask().await);
    let (first, second) = (bench.active(first).await, bench.active(second).await);
    assert_ne!(first.vm, second.vm);
    assert_ne!(first.port, second.port);
    assert_ne!(first.ca_pem, second.ca_pem);
    let kinds: Vec<_> = bench
        .sim
        .starts()
        .into_iter()
        .map(|(_, kind)| kind)
        .collect();
    assert_eq!(kinds, ["template", "clone", "clone"]);
}

#[tokio::test]
async fn a_lease_ends_when_its_time_is_over_and_not_before() {
    let mut bench = Bench::started().await;
    let lease = bench.ask_for(60).await;
    bench.active(lease).await;
    bench.pass(59).await;
    let other = bench.ask().await;
    // The other lease became active, so the reconciler has been round since the clock moved.
    bench.active(other).await;
    assert!(matches!(
        bench.lease(lease).await.phase,
        LeasePhase::Active(_)
    ));
    bench.pass(1).await;
    assert_eq!(bench.ended(lease).await, EndReason::Expired);
    bench.release(other).await;
    bench.clean().await;
}

#[tokio::test]
async fn a_lease_waits_for_memory_and_gives_up_in_time() {
    let mut bench = Bench::new().await;
    bench.settings.policy.budget.memory_mib = 1024;
    bench.start().await;
    let first = bench.ask().await;
    let first_grant = bench.active(first).await;
    let (second, third) = (bench.ask().await, bench.ask().await);
    bench.release(first).await;
    let second_grant = bench.active(second).await;
    assert_ne!(first_grant.vm, second_grant.vm);
    bench.pass(120).await;
    assert_eq!(bench.ended(third).await, EndReason::WaitTimeout);
    bench.release(second).await;
    bench.clean().await;
}

#[tokio::test]
async fn a_lease_given_up_while_it_waits_does_not_keep_a_machine() {
    let mut bench = Bench::started().await;
    let lease = bench.ask().await;
    bench.release(lease).await;
    assert_eq!(bench.ended(lease).await, EndReason::Released);
    // A machine that was on its way already may go on to ready, whenever that is; nobody needs it then.
    let time_goes_on = async {
        while !bench.store.snapshot().await.unwrap().0.is_empty() {
            bench.pass(31).await;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let gone = tokio::time::timeout(std::time::Duration::from_secs(60), time_goes_on).await;
    assert!(gone.is_ok(), "{:?}", bench.store.snapshot().await);
    bench.clean().await;
}

#[tokio::test]
async fn a_port_that_somebody_else_holds_is_passed_over() {
    let mut bench = Bench::new().await;
    let first = *bench.settings.ports.start();
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
    bench.start().await;
    let lease = bench.ask().await;
    assert_eq!(bench.active(lease).await.port, first + 1);
    drop(held);
}

#[tokio::test]
async fn a_machine_that_cannot_be_destroyed_does_not_hold_up_others() {
    let mut bench = Bench::started().await;
    let stuck = bench.ask().await;
    let port = bench.active(stuck).await.port;
    bench.sim.inject(Verb::Destroy, SimFault::Hangs);
    bench.release(stuck).await;
    bench
        .eventually("the machine is being destroyed", |bench| {
            !bench.sim.has_fault(Verb::Destroy)
        })
        .await;
    let next = bench.ask().await;
    assert_eq!(bench.active(next).await.port, port + 1);
}

#[tokio::test]
async fn without_a_free_port_the_lease_waits_and_the_status_says_why() {
    let mut bench = Bench::new().await;
    let first = *bench.settings.ports.start();
    bench.settings.ports = first..=first;
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
    bench.start().await;
    let lease = bench.ask().await;
    bench
        .eventually("the status names the ports", |bench| {
            bench.troubles().contains("every port")
        })
        .await;
    assert_eq!(bench.lease(lease).await.phase, LeasePhase::Waiting);
    drop(held);
    bench.pass(1).await;
    assert_eq!(bench.active(lease).await.port, first);
    assert_eq!(bench.troubles(), "");
}

#[tokio::test]
async fn a_template_is_built_before_anybody_asks() {
    let mut bench = Bench::new().await;
    bench.settings.policy.prebuild.insert(key());
    bench.start().await;
    bench
        .eventually("the template is built", |bench| {
            bench.status().is_healthy() && bench.status().preparing.is_empty()
        })
        .await;
    assert_eq!(bench.sim.starts().len(), 1);
    bench.clean().await;
}
