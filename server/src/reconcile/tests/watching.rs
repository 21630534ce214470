//! What the server learns from guests, and what it does not let them do.

use std::time::{Duration, Instant};

use guest_protocol::{DiskUse, Event, OutOfMemory, Scarce, Whose};
use remote_docker_api::{EndReason, EventKind, LeaseEvent, LeaseId};

use super::bench::{Bench, key};
use crate::guest::AskError;
use crate::hypervisor::sim::{Manners, SimFault, Verb};
use crate::ids::VmId;
use crate::lease::LeasePhase;
use crate::store::MOST_TROUBLES;

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
async fn a_guest_whose_watcher_panicked_is_watched_again() {
    let mut bench = Bench::started().await;
    let lease = bench.ask().await;
    let vm = bench.active(lease).await.vm;
    asked_again(&bench, vm).await;
    bench.sim.inject_for(vm, Verb::Channel, SimFault::Panics);
    bench.sim.hang_up(vm);
    bench
        .eventually("its channel is opened", |bench| {
            !bench.sim.has_fault(Verb::Channel)
        })
        .await;
    asked_again(&bench, vm).await;
    bench.release(lease).await;
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

/// What its holder was told that the machine of this lease runs out of, once `enough` says so.
async fn told(
    bench: &Bench,
    lease: LeaseId,
    enough: impl Fn(&[LeaseEvent]) -> bool,
) -> Vec<LeaseEvent> {
    let look = async {
        loop {
            let told = bench.store.troubles(lease).await.unwrap();
            if enough(&told) {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(60), look).await;
    told.expect("the holder was not told")
}

fn killed(process: &str) -> Event {
    Event::OutOfMemory(OutOfMemory {
        process: process.to_owned(),
        whose: Whose::Container("web\u{1b}[2J".to_owned()),
        limit_kib: Some(65_536),
    })
}

#[tokio::test]
async fn what_a_machine_runs_out_of_is_told_to_its_holder() {
    let mut bench = Bench::started().await;
    let lease = bench.ask().await;
    let vm = bench.active(lease).await.vm;
    let usage = DiskUse {
        full: false,
        scarce: Scarce::Space,
        used_percent: 92,
        free_mib: 1536,
    };
    let says = vec![Event::Disk(usage), killed("cc1")];
    bench.sim.guest(vm, |guest| guest.says = says);
    let told = told(&bench, lease, |told| told.len() == 2).await;
    // In the order in which the guest said it.
    let words: Vec<_> = told
        .iter()
        .map(|event| (event.kind.as_str(), event.detail.as_deref().unwrap()))
        .collect();
    assert_eq!(
        words,
        [
            (
                "disk_low",
                "the machine's disk is 92 % full, 1536 MiB are left"
            ),
            (
                "out_of_memory",
                "\"cc1\" in container \"web?[2J\" was killed: out of memory (limit 64 MiB)"
            ),
        ]
    );
    bench.release(lease).await;
    bench.clean().await;
}

/// So often a guest is heard at once that complains, and once more each time this has passed; see `LogBudget`.
const HEARD_AT_ONCE: usize = 20;
const HEARD_AGAIN_AFTER_S: usize = 3;

/// How often it is written in the history of this lease that a process was killed.
async fn kills_written(bench: &Bench, lease: LeaseId) -> usize {
    let events = bench.store.events(lease, 0).await.unwrap();
    let kills = events
        .iter()
        .filter(|event| event.kind == EventKind::OutOfMemory);
    kills.count()
}

#[tokio::test]
async fn a_guest_that_complains_without_end_does_not_fill_the_database() {
    let mut bench = Bench::started().await;
    let began = Instant::now();
    let lease = bench.ask().await;
    let vm = bench.active(lease).await.vm;
    let mut complaints = 0;
    // Slower than a flood, after which nobody would listen.
    for _ in 0..10 {
        bench
            .sim
            .guest(vm, |guest| guest.says = vec![killed("cc1"); 50]);
        complaints += 50;
        asked_again(&bench, vm).await;
    }
    told(&bench, lease, |told| told.len() >= HEARD_AT_ONCE / 2).await;
    let phase = bench.lease(lease).await.phase;
    assert!(matches!(phase, LeasePhase::Active(_)), "{phase:?}");
    bench.release(lease).await;
    bench.clean().await;
    let written = kills_written(&bench, lease).await;
    let passed_s = usize::try_from(began.elapsed().as_secs()).unwrap();
    // One more: it was heard at other moments than it is counted.
    let most = HEARD_AT_ONCE + passed_s / HEARD_AGAIN_AFTER_S + 1;
    let most = most.min(MOST_TROUBLES as usize);
    assert!(
        (HEARD_AT_ONCE / 2..=most).contains(&written),
        "{complaints} made {written} in {passed_s} s"
    );
}

#[tokio::test]
async fn a_clock_that_is_off_is_set_right_and_one_that_is_right_is_let_be() {
    let mut bench = Bench::started().await;
    let lease = bench.ask().await;
    let vm = bench.active(lease).await.vm;
    let now = u64::try_from(bench.wall().unix_timestamp_nanos()).unwrap();
    let moves = |bench: &Bench| bench.sim.guest(vm, |guest| guest.clock_moves.clone());
    // It does not tell the time.
    asked_again(&bench, vm).await;
    assert_eq!(moves(&bench).unwrap(), [0_i64; 0]);
    // The clock of this host stands still, so it is known to the nanosecond how far the guest is behind.
    let behind: i64 = 30_000_000_000;
    bench
        .sim
        .guest(vm, |guest| guest.clock_ns = now.checked_add_signed(-behind));
    bench
        .eventually("its clock is moved", |bench| {
            bench.sim.guest(vm, |guest| guest.clock_ns) == Some(Some(now))
        })
        .await;
    asked_again(&bench, vm).await;
    asked_again(&bench, vm).await;
    assert_eq!(moves(&bench).unwrap(), [behind]);
    // The host's clock jumps.
    bench.set_clock(3600).await;
    bench
        .eventually("its clock is moved after the host's", |bench| {
            moves(bench).unwrap().last() == Some(&3_600_000_000_000)
        })
        .await;
    bench.release(lease).await;
    bench.clean().await;
}
