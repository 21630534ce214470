//! What machines are allowed to reach, and when that is said.

use remote_docker_api::{Egress, EndReason, LeaseId};

use super::bench::{Ask, Bench, key};
use crate::calendar::Calendar;
use crate::config::PoolConfig;
use crate::hypervisor::sim::{SimFault, Verb};
use crate::reconcile::jobs::ADMIT_LIMIT;

async fn ask(bench: &mut Bench, egress: Egress) -> LeaseId {
    let ask = Ask {
        egress,
        ..Ask::default()
    };
    bench.ask_with(ask).await
}

#[tokio::test]
async fn a_machine_may_reach_what_its_lease_asked_for_once_the_lease_is_active() {
    let mut bench = Bench::started().await;
    for egress in Egress::ALL {
        let lease = ask(&mut bench, egress).await;
        let grant = bench.active(lease).await;
        assert_eq!(bench.sim.egress(grant.vm), Some(egress));
    }
}

#[tokio::test]
async fn a_machine_in_stock_reaches_nothing() {
    let mut bench = Bench::new().await;
    let pool = PoolConfig {
        engine: None,
        size: None,
        ready: 1,
        schedule: Vec::new(),
    };
    bench.settings.calendar = Calendar::new([(key(), pool)]).unwrap();
    bench.start().await;
    bench.ready_one().await;
    let stock = bench.sim.vms();
    assert!(!stock.is_empty());
    for vm in stock {
        assert_eq!(bench.sim.egress(vm), Some(Egress::None));
    }
}

#[tokio::test]
async fn a_lease_is_not_active_before_its_machine_was_told_what_it_may_reach() {
    let mut bench = Bench::started().await;
    bench.sim.inject(Verb::Admit, SimFault::Fails);
    let lease = ask(&mut bench, Egress::Open).await;
    let failed = |bench: &Bench| !bench.troubles().is_empty();
    bench.eventually("it is told that it failed", failed).await;
    let untold = bench.sim.vms();
    assert!(!bench.is_active(lease).await);
    // Its key is held back for a second.
    bench.pass(2).await;
    let grant = bench.active(lease).await;
    assert!(!untold.contains(&grant.vm));
    assert_eq!(bench.sim.egress(grant.vm), Some(Egress::Open));
}

#[tokio::test]
async fn a_lease_whose_machines_can_never_be_told_ends() {
    let mut bench = Bench::started().await;
    bench.sim.always(None, Verb::Admit, SimFault::Fails);
    let lease = ask(&mut bench, Egress::Open).await;
    for failed in 1..=3 {
        // A machine is destroyed only after it was heard why, and from then on its key is held back.
        let heard =
            |bench: &Bench| bench.sim.admits().went_wrong == failed && bench.sim.vms().is_empty();
        bench.eventually("it was tried", heard).await;
        // Longer each time.
        bench.pass(8).await;
    }
    assert_eq!(bench.ended(lease).await, EndReason::StartFailed);
}

#[tokio::test]
async fn a_wire_that_does_not_answer_holds_nobody_else_up() {
    let mut bench = Bench::started().await;
    bench.sim.inject(Verb::Admit, SimFault::Hangs);
    let first = ask(&mut bench, Egress::Open).await;
    let hangs = |bench: &Bench| bench.sim.hanging() == 1;
    bench.eventually("its wire is being told", hangs).await;
    let second = ask(&mut bench, Egress::Open).await;
    bench.active(second).await;
    assert!(hangs(&bench));
    assert!(!bench.is_active(first).await);
}

#[tokio::test]
async fn a_wire_that_never_answers_costs_its_machine_and_not_the_lease() {
    let mut bench = Bench::started().await;
    bench.sim.inject(Verb::Admit, SimFault::Hangs);
    let lease = ask(&mut bench, Egress::Open).await;
    let hangs = |bench: &Bench| bench.sim.hanging() == 1;
    bench.eventually("its wire is being told", hangs).await;
    let silent = bench.sim.vms();
    tokio::time::pause();
    tokio::time::advance(ADMIT_LIMIT + std::time::Duration::from_secs(1)).await;
    tokio::time::resume();
    let told = |bench: &Bench| bench.troubles().contains("its wire does not answer");
    bench.eventually("what happened is told", told).await;
    // Its key is held back for a second.
    bench.pass(2).await;
    let grant = bench.active(lease).await;
    assert!(!silent.contains(&grant.vm));
    let alone = |bench: &Bench| bench.sim.vms() == [grant.vm];
    bench.eventually("the silent one is gone", alone).await;
}

#[tokio::test]
async fn a_lease_can_be_given_back_while_its_machine_is_told() {
    let mut bench = Bench::started().await;
    bench.sim.inject(Verb::Admit, SimFault::Hangs);
    let lease = ask(&mut bench, Egress::Open).await;
    let hangs = |bench: &Bench| bench.sim.hanging() == 1;
    bench.eventually("its wire is being told", hangs).await;
    bench.release(lease).await;
    bench.sim.let_go();
    assert_eq!(bench.ended(lease).await, EndReason::Released);
    bench.clean().await;
}

#[tokio::test]
async fn a_port_is_not_open_before_its_machine_was_told_again() {
    let mut bench = Bench::started().await;
    let lease = ask(&mut bench, Egress::Open).await;
    let grant = bench.active(lease).await;
    bench.crash().await;
    bench.sim.inject(Verb::Admit, SimFault::Hangs);
    bench.start().await;
    let hangs = |bench: &Bench| bench.sim.hanging() == 1;
    bench.eventually("its wire is being told", hangs).await;
    bench.goes_round().await;
    let port = (std::net::Ipv4Addr::LOCALHOST, grant.port);
    let open = |_: &Bench| std::net::TcpStream::connect(port).is_ok();
    assert!(!open(&bench));
    // What it was told before holds.
    bench.sim.let_go();
    bench.eventually("the port is open again", open).await;
}

#[tokio::test]
async fn a_server_that_starts_again_tells_machines_again_what_they_may_reach() {
    let mut bench = Bench::started().await;
    let lease = ask(&mut bench, Egress::Open).await;
    let grant = bench.active(lease).await;
    bench.crash().await;
    // As with a machine that an older server made, which knew no policies.
    use crate::hypervisor::Hypervisor;
    bench.sim.admit(grant.vm, Egress::None).await.unwrap();
    bench.start().await;
    let port = (std::net::Ipv4Addr::LOCALHOST, grant.port);
    let open = |_: &Bench| std::net::TcpStream::connect(port).is_ok();
    bench.eventually("the port is open again", open).await;
    assert_eq!(bench.sim.egress(grant.vm), Some(Egress::Open));
}
