//! Guests whose agent or daemon is not what it should be, from the start or after a while.

use remote_docker_api::EndReason;

use super::bench::Bench;
use super::faults::with_template;
use super::watching::asked_again;
use crate::hypervisor::sim::Manners;

/// The first machine that is made for a lease has a guest with these manners: the lease gets another
/// one, and nothing of the first is left.
async fn another_machine_is_made(manners: Manners, words: &str) {
    let mut bench = with_template().await;
    bench.sim.raise(manners);
    let lease = bench.ask().await;
    bench
        .eventually("it is told", |bench| bench.troubles().contains(words))
        .await;
    let refused = bench.sim.starts()[2].0;
    bench.sim.raise(Manners::Good);
    // A second one may have been begun before the first was known to have failed.
    while !bench.is_active(lease).await {
        bench.pass(1).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let vm = bench.active(lease).await.vm;
    assert_ne!(vm, refused);
    bench
        .eventually("the first one is gone", |bench| bench.sim.vms() == [vm])
        .await;
    bench.release(lease).await;
    assert_eq!(bench.ended(lease).await, EndReason::Released);
    bench.clean().await;
}

#[tokio::test]
async fn an_agent_that_floods_while_it_is_activated_costs_its_machine() {
    another_machine_is_made(Manners::Floods, "did not become ready").await;
}

#[tokio::test]
async fn an_agent_that_talks_rubbish_while_it_is_activated_costs_its_machine() {
    another_machine_is_made(Manners::Rubbish, "did not become ready").await;
}

#[tokio::test]
async fn an_agent_that_says_it_serves_before_it_has_an_identity_costs_its_machine() {
    another_machine_is_made(Manners::Boasts, "did not become ready").await;
}

#[tokio::test]
async fn an_agent_that_hangs_while_it_is_activated_holds_its_lease_up_for_the_deadline_only() {
    let mut bench = with_template().await;
    bench.sim.raise(Manners::Silent);
    let lease = bench.ask().await;
    bench
        .eventually("it is started", |bench| bench.sim.starts().len() == 3)
        .await;
    let silent = bench.sim.starts()[2].0;
    bench.sim.raise(Manners::Good);
    goes_on(&bench).await;
    // The call still waits for its answer; the row does not.
    bench.pass(61).await;
    assert_ne!(bench.active(lease).await.vm, silent);
    bench.sim.hang_up(silent);
    bench.release(lease).await;
    bench.clean().await;
}

/// Waits until a machine is being activated.
async fn goes_on(bench: &Bench) {
    use crate::lease::VmPhase::Activating;
    let mut changes = bench.store.changes();
    loop {
        changes.mark_unchanged();
        let (vms, _) = bench.store.snapshot().await.unwrap();
        if vms.iter().any(|vm| vm.phase == Activating) {
            return;
        }
        changes.changed().await.unwrap();
    }
}

#[tokio::test]
async fn an_agent_that_says_everything_twice_is_heard_once() {
    let mut bench = with_template().await;
    bench.sim.raise(Manners::Repeats);
    let lease = bench.ask_idle(60).await;
    let vm = bench.active(lease).await.vm;
    let used_at = bench.now();
    bench.sim.guest(vm, |guest| guest.used_at = Some(used_at));
    asked_again(&bench, vm).await;
    assert_eq!(bench.troubles(), "");
    bench.pass(62).await;
    asked_again(&bench, vm).await;
    bench.poke().await;
    assert_eq!(bench.ended(lease).await, EndReason::Idle);
    bench.clean().await;
}

#[tokio::test]
async fn a_lease_whose_daemon_died_is_its_holders_until_it_answers_and_is_idle() {
    let mut bench = Bench::started().await;
    let lease = bench.ask_idle(60).await;
    let vm = bench.active(lease).await.vm;
    bench.sim.guest(vm, |guest| guest.docker_answers = false);
    asked_again(&bench, vm).await;
    for _ in 0..3 {
        bench.pass(600).await;
        asked_again(&bench, vm).await;
    }
    bench.poke().await;
    bench.goes_round().await;
    assert!(bench.is_active(lease).await);
    bench.sim.guest(vm, |guest| guest.docker_answers = true);
    asked_again(&bench, vm).await;
    bench.pass(62).await;
    asked_again(&bench, vm).await;
    bench.poke().await;
    assert_eq!(bench.ended(lease).await, EndReason::Idle);
    bench.clean().await;
}
