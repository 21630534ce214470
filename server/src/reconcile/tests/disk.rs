//! The host's disk runs full. The reserve is 100 bytes.

use remote_docker_api::EndReason;

use super::bench::Bench;
use crate::hypervisor::sim::{SimFault, Verb};
use crate::lease::LeasePhase;

#[tokio::test]
async fn who_fills_the_disk_is_given_up_and_the_others_go_on() {
    let mut bench = Bench::started().await;
    let (writer, quiet) = (bench.ask().await, bench.ask().await);
    let filled = bench.active(writer).await.vm;
    let innocent = bench.active(quiet).await.vm;
    bench.sim.set_free_disk(1000);
    bench.sim.take_disk(filled, 2000);
    // It finds no room although it wrote nothing before.
    bench.sim.take_disk(innocent, 10);
    assert!(bench.sim.is_stalled(innocent));
    // Going on fails at first.
    bench.sim.inject(Verb::Resume, SimFault::Fails);
    assert_eq!(bench.ended(writer).await, EndReason::DiskFull);
    bench
        .eventually("the innocent one goes on", |bench| {
            !bench.sim.is_stalled(innocent)
        })
        .await;
    let phase = bench.lease(quiet).await.phase;
    assert!(matches!(phase, LeasePhase::Active(_)), "{phase:?}");
    let third = bench.ask().await;
    bench.active(third).await;
    bench
        .eventually("all is well again", |bench| bench.status().disk.is_none())
        .await;
    for lease in [quiet, third] {
        bench.release(lease).await;
    }
    bench.clean().await;
}

#[tokio::test]
async fn leases_wait_while_somebody_else_fills_the_disk() {
    let mut bench = Bench::started().await;
    let holder = bench.ask().await;
    let vm = bench.active(holder).await.vm;
    bench.sim.set_free_disk(5);
    bench.sim.take_disk(vm, 10);
    bench
        .eventually("it is told", |bench| bench.status().disk.is_some())
        .await;
    let starts = bench.sim.starts().len();
    let late = bench.ask().await;
    // Two looks at the disk later it still waits, and nobody was given up for it.
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert_eq!(bench.lease(late).await.phase, LeasePhase::Waiting);
    assert_eq!(bench.sim.starts().len(), starts);
    let phase = bench.lease(holder).await.phase;
    assert!(matches!(phase, LeasePhase::Active(_)), "{phase:?}");
    assert!(bench.sim.is_stalled(vm));
    bench.sim.set_free_disk(1000);
    bench.active(late).await;
    bench
        .eventually("it goes on", |bench| !bench.sim.is_stalled(vm))
        .await;
    for lease in [holder, late] {
        bench.release(lease).await;
    }
    bench.clean().await;
}
