//! What the server learns from guests, and what it does not let them do.

use std::time::Duration;

use remote_docker_api::EndReason;

use super::bench::{Bench, key};
use crate::guest::AskError;
use crate::hypervisor::sim::Manners;
use crate::ids::VmId;
use crate::lease::LeasePhase;

/// How often it was asked how it is; `None` when it is gone.
fn asked(bench: &Bench, vm: VmId) -> Option<u32> {
    bench.sim.guest(vm, |guest| guest.asked)
}

/// Waits until the guest was asked twice more, so that an answer after this call was taken in, or is
/// gone because of that.
pub(super) async fn asked_again(bench: &Bench, vm: VmId) {
    let before = asked(bench, vm).unwrap_or_default();
    bench
        .eventually("the guest is asked again", |bench| {
            asked(bench, vm).is_none_or(|asked| asked >= before + 2)
        })
        .await;
}

#[tokio::test]
async fn a_lease_on_which_nothing_happens_ends_and_one_sign_of_life_keeps_it() {
    let mut bench = Bench::started().await;
    let lease = bench.ask_idle(60).await;
    let vm = bench.active(lease).await.vm;
    bench.sim.guest(vm, |guest| {
        guest.activity.idle_ms = Some(3_600_000);
        guest.activity.containers_running = Some(1);
    });
    asked_again(&bench, vm).await;
    bench.pass(3000).await;
    asked_again(&bench, vm).await;
    bench.pass(1).await;
    asked_again(&bench, vm).await;
    let phase = bench.lease(lease).await.phase;
    assert!(matches!(phase, LeasePhase::Active(_)), "{phase:?}");

    bench
        .sim
        .guest(vm, |guest| guest.activity.containers_running = Some(0));
    asked_again(&bench, vm).await;
    bench.pass(59).await;
    asked_again(&bench, vm).await;
    let other = bench.ask().await;
    bench.active(other).await;
    let phase = bench.lease(lease).await.phase;
    assert!(matches!(phase, LeasePhase::Active(_)), "{phase:?}");
    bench.pass(2).await;
    asked_again(&bench, vm).await;
    bench.pass(0).await;
    assert_eq!(bench.ended(lease).await, EndReason::Idle);
    bench.release(other).await;
    bench.clean().await;
}

#[tokio::test]
async fn silence_is_not_idleness() {
    let mut bench = Bench::new().await;
    bench.settings.watching.patience = Duration::from_millis(20);
    bench.start().await;
    let lease = bench.ask_idle(60).await;
    let vm = bench.active(lease).await.vm;
    asked_again(&bench, vm).await;
    bench.sim.behave(vm, Manners::Silent);
    // Longer than three answers that do not come.
    tokio::time::sleep(Duration::from_millis(300)).await;
    bench.pass(600).await;
    let other = bench.ask().await;
    bench.active(other).await;
    let phase = bench.lease(lease).await.phase;
    assert!(matches!(phase, LeasePhase::Active(_)), "{phase:?}");
}

#[tokio::test]
async fn a_restart_does_not_make_a_guest_idle() {
    let mut bench = Bench::started().await;
    let lease = bench.ask_idle(60).await;
    let vm = bench.active(lease).await.vm;
    bench
        .sim
        .guest(vm, |guest| guest.activity.idle_ms = Some(3_600_000));
    asked_again(&bench, vm).await;
    bench.crash().await;
    bench.pass(1000).await;
    bench.start().await;
    asked_again(&bench, vm).await;
    bench.pass(59).await;
    asked_again(&bench, vm).await;
    let other = bench.ask().await;
    bench.active(other).await;
    let phase = bench.lease(lease).await.phase;
    assert!(matches!(phase, LeasePhase::Active(_)), "{phase:?}");
    bench.pass(2).await;
    asked_again(&bench, vm).await;
    bench.pass(0).await;
    assert_eq!(bench.ended(lease).await, EndReason::Idle);
}

/// A machine in stock, with a guest that is as `ill` makes it; it must be replaced by another.
async fn a_spare_guest_is_replaced(ill: impl FnOnce(&Bench, VmId)) {
    let mut bench = Bench::new().await;
    bench.settings.policy.targets.insert(key(), 1);
    bench.settings.watching.patience = Duration::from_millis(20);
    bench.settings.watching.docker_patience = Duration::from_millis(50);
    bench.start().await;
    let spare = |bench: &Bench| {
        let vms = bench.sim.vms();
        vms.into_iter().find(|vm| asked(bench, *vm) > Some(0))
    };
    bench
        .eventually("a machine is in stock and watched", |bench| {
            spare(bench).is_some()
        })
        .await;
    let vm = spare(&bench).unwrap();
    ill(&bench, vm);
    bench
        .eventually("it is replaced", |bench| {
            !bench.sim.vms().contains(&vm) && spare(bench).is_some()
        })
        .await;
}

#[tokio::test]
async fn a_spare_guest_whose_agent_is_silent_is_replaced() {
    a_spare_guest_is_replaced(|bench, vm| bench.sim.behave(vm, Manners::Silent)).await;
}

#[tokio::test]
async fn a_spare_guest_whose_daemon_is_silent_is_replaced() {
    a_spare_guest_is_replaced(|bench, vm| {
        bench.sim.guest(vm, |guest| guest.docker_answers = false);
    })
    .await;
}

#[tokio::test]
async fn a_spare_guest_that_talks_rubbish_is_replaced() {
    a_spare_guest_is_replaced(|bench, vm| bench.sim.behave(vm, Manners::Rubbish)).await;
}

/// A leased guest that breaks the rules like this is not listened to any more, whatever time passes,
/// and its lease goes on.
async fn a_leased_guest_is_given_up(manners: Manners) {
    let mut bench = Bench::started().await;
    let lease = bench.ask().await;
    let vm = bench.active(lease).await.vm;
    asked_again(&bench, vm).await;
    bench.sim.behave(vm, manners);
    let guests = bench.guests();
    let unheard = async {
        while !matches!(guests.logs(vm, 1).await, Err(AskError::Unreached { .. })) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), unheard)
        .await
        .unwrap();
    let before = asked(&bench, vm);
    // Longer than the pause before a channel that merely closed is opened again.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(asked(&bench, vm), before);
    let phase = bench.lease(lease).await.phase;
    assert!(matches!(phase, LeasePhase::Active(_)), "{phase:?}");
    bench.release(lease).await;
    assert_eq!(bench.ended(lease).await, EndReason::Released);
    bench.clean().await;
}

#[tokio::test]
async fn a_guest_that_talks_rubbish_is_not_listened_to() {
    a_leased_guest_is_given_up(Manners::Rubbish).await;
}

#[tokio::test]
async fn a_guest_that_floods_is_not_listened_to() {
    a_leased_guest_is_given_up(Manners::Floods).await;
}

#[tokio::test]
async fn the_rest_of_the_server_reaches_a_guest_through_its_watcher() {
    let mut bench = Bench::started().await;
    let lease = bench.ask().await;
    let vm = bench.active(lease).await.vm;
    bench
        .sim
        .guest(vm, |guest| guest.dockerd_log = "level=error\n".into());
    let guests = bench.guests();
    let logs = guests.logs(vm, 1000).await.unwrap();
    assert_eq!(logs.dockerd, "level=error\n");
    guests.notice(vm, "time is up".into()).await.unwrap();
    let notices = bench.sim.guest(vm, |guest| guest.notices.clone()).unwrap();
    assert_eq!(notices, ["time is up"]);
    bench.release(lease).await;
    bench.clean().await;
    let gone = guests.logs(vm, 1000).await;
    assert!(matches!(gone, Err(AskError::Unreached { .. })), "{gone:?}");
}

#[tokio::test]
async fn a_channel_that_closes_is_opened_again() {
    let mut bench = Bench::started().await;
    let lease = bench.ask().await;
    let vm = bench.active(lease).await.vm;
    bench.sim.hang_up(vm);
    asked_again(&bench, vm).await;
    bench.guests().logs(vm, 1).await.unwrap();
}
