//! What a look at the host costs, and what it finds.

use remote_docker_api::EndReason;

use super::bench::Bench;

/// Leases that need nothing while the host is looked at.
const LEASES: u16 = 40;

#[tokio::test]
async fn a_look_costs_what_it_finds_amiss_however_many_leases_there_are() {
    let mut bench = Bench::new().await;
    bench.settings.policy.budget.slots = 2 * LEASES;
    bench.settings.policy.budget.memory_mib = u64::from(2 * LEASES) * 1024;
    // More than a bench has, so none of those that others may have.
    let first = 61_000 + (std::process::id() % 40) as u16 * 100;
    bench.settings.ports = first..=first + 2 * LEASES;
    bench.start().await;
    let mut held = Vec::new();
    for _ in 0..LEASES {
        let lease = bench.ask().await;
        held.push((lease, bench.active(lease).await.vm));
    }
    bench.goes_round().await;
    bench.most_planned();
    // Each is seen to be gone by a look of its own.
    for (lease, vm) in held.drain(..3) {
        bench.sim.vanish(vm);
        assert_eq!(bench.ended(lease).await, EndReason::VmLost);
    }
    // The lease and its machine, and those of the one before.
    let most = bench.most_planned();
    assert!((1..=4).contains(&most), "{most} of {} rows", 2 * LEASES);
    for (lease, _) in held {
        bench.release(lease).await;
    }
    bench.clean().await;
}
