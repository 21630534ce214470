//! How leases end by themselves, what they are told before, and what those who wait are told.

use remote_docker_api::{Doing, EndReason, EventKind, LeaseId};

use super::bench::{Ask, Bench, key};
use crate::audit::Asked;
use crate::calendar::Calendar;
use crate::config::{PoolConfig, ScheduleConfig};
use crate::hypervisor::sim::{SimFault, Verb};
use crate::lease::LeasePhase;
use crate::store::Moved;

fn keeping(keepalive_s: u32) -> Ask {
    Ask {
        keepalive_s: Some(keepalive_s),
        ..Ask::default()
    }
}

async fn beat(bench: &Bench, lease: LeaseId) -> bool {
    let answer = bench.store.heartbeat(lease, bench.now()).await.unwrap();
    matches!(answer, Moved::Done(_))
}

async fn kinds(bench: &Bench, lease: LeaseId) -> Vec<EventKind> {
    let events = bench.store.events(lease, 0).await.unwrap();
    events.into_iter().map(|event| event.kind).collect()
}

#[tokio::test]
async fn a_lease_whose_holder_falls_silent_ends() {
    let mut bench = Bench::started().await;
    let lease = bench.ask_with(keeping(30)).await;
    bench.active(lease).await;
    for _ in 0..3 {
        bench.pass(29).await;
        assert!(beat(&bench, lease).await, "it is still there");
    }
    bench.pass(30).await;
    assert_eq!(bench.ended(lease).await, EndReason::KeepaliveMissed);
    assert!(!beat(&bench, lease).await, "a heartbeat after the end");
    bench.clean().await;
}

#[tokio::test]
async fn silence_while_the_server_was_away_does_not_count() {
    let mut bench = Bench::started().await;
    let lease = bench.ask_with(keeping(30)).await;
    bench.active(lease).await;
    bench.crash().await;
    bench.pass(600).await;
    bench.start().await;
    bench.pass(29).await;
    assert!(beat(&bench, lease).await, "it had no chance to be heard");
    bench.pass(30).await;
    assert_eq!(bench.ended(lease).await, EndReason::KeepaliveMissed);
}

#[tokio::test]
async fn an_extension_in_the_last_second_counts_and_one_after_the_end_does_not() {
    let mut bench = Bench::started().await;
    let lease = bench.ask_for(100).await;
    bench.active(lease).await;
    bench.pass(99).await;
    let until = bench.now() + time::Duration::seconds(100);
    let extended = bench
        .store
        .extend(lease, until, bench.now(), &Asked::default())
        .await;
    assert!(matches!(extended, Ok(Moved::Done(_))), "{extended:?}");
    bench.pass(99).await;
    assert!(matches!(
        bench.lease(lease).await.phase,
        LeasePhase::Active(_)
    ));
    bench.pass(1).await;
    assert_eq!(bench.ended(lease).await, EndReason::Expired);
    let late = bench
        .store
        .extend(lease, until, bench.now(), &Asked::default())
        .await;
    assert!(matches!(late, Ok(Moved::NotActive(_))), "{late:?}");
}

#[tokio::test]
async fn a_life_is_told_from_the_queue_to_the_end() {
    let mut bench = Bench::started().await;
    let lease = bench.ask_for(100).await;
    let vm = bench.active(lease).await.vm;
    bench.pass(50).await;
    bench
        .eventually("the guest's console has the warning", |bench| {
            bench
                .sim
                .guest(vm, |guest| guest.notices.join("\n").contains("50 s"))
                .unwrap_or_default()
        })
        .await;
    bench.pass(50).await;
    assert_eq!(bench.ended(lease).await, EndReason::Expired);
    use EventKind::{Activating, Cloning, Ended, Ending, Queued, Ready, Warning};
    let expected = [Queued, Cloning, Activating, Ready, Warning, Ending, Ended];
    assert_eq!(kinds(&bench, lease).await, expected);
}

#[tokio::test]
async fn a_lease_whose_machines_all_fail_is_told_what_the_last_one_said() {
    let mut bench = Bench::new().await;
    bench.settings.policy.start_attempts = 2;
    bench.start().await;
    bench.sim.always(None, Verb::Activate, SimFault::Fails);
    let lease = bench.ask().await;
    let ended = async {
        loop {
            // Each failure holds the next start back for a while. While a machine is made no time passes: the lease
            // would have waited for too long before a busy processor has tried twice.
            if bench.store.snapshot().await.unwrap().0.is_empty() {
                bench.pass(5).await;
            }
            if let LeasePhase::Ended { end, .. } = bench.lease(lease).await.phase {
                return end;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let end = tokio::time::timeout(std::time::Duration::from_secs(60), ended);
    let end = end.await.expect("the lease is not given up");
    assert_eq!(end.reason, EndReason::StartFailed);
    let detail = end.detail.unwrap();
    assert!(detail.contains("did not become ready"), "{detail}");
    assert!(detail.contains("a simulated machine starts"), "{detail}");
    bench.clean().await;
}

#[tokio::test]
async fn who_waits_for_room_is_told_its_place_and_when_there_is_some() {
    let mut bench = Bench::new().await;
    bench.settings.policy.budget.slots = 1;
    bench.start().await;
    let first = bench.ask_for(600).await;
    bench.active(first).await;
    let (second, third) = (bench.ask().await, bench.ask().await);
    bench
        .eventually("both are told", |bench| bench.outlook().len() == 2)
        .await;
    let told = bench.outlook();
    assert_eq!(told[&second].position, 1);
    assert_eq!(told[&third].position, 2);
    assert_eq!(told[&second].doing, Doing::Queued);
    assert_eq!(told[&second].estimated_wait_s, Some(600));
    bench.release(first).await;
    bench.active(second).await;
    bench
        .eventually("the other one moves up", |bench| {
            bench.outlook().get(&third).map(|queue| queue.position) == Some(1)
        })
        .await;
}

#[tokio::test]
async fn machines_are_ready_when_the_calendar_says_so_and_are_claimed_warm() {
    let mut bench = Bench::new().await;
    let change = |at: &str, ready| ScheduleConfig {
        at: at.to_owned(),
        time_zone: "UTC".to_owned(),
        ready,
    };
    let pool = PoolConfig {
        engine: None,
        size: None,
        ready: 0,
        // The bench's clock starts at eight in the morning.
        schedule: vec![change("0 9 * * *", 2), change("0 18 * * *", 0)],
    };
    bench.settings.calendar = Calendar::new([(key(), pool)]).unwrap();
    bench.start().await;
    let spares = |bench: &Bench| bench.sim.vms().len();
    bench
        .eventually("nothing is kept ready at night", |bench| {
            bench.status().looked && spares(bench) == 0
        })
        .await;
    bench.pass(3600).await;
    bench
        .eventually("two are made", |bench| spares(bench) == 2)
        .await;
    bench.ready_one().await;
    bench.pass(1).await;
    let lease = bench.ask().await;
    assert!(bench.active(lease).await.warm);
    use EventKind::{Queued, Ready};
    assert_eq!(kinds(&bench, lease).await, [Queued, Ready]);
    bench
        .eventually("another takes its place", |bench| spares(bench) == 3)
        .await;
    bench.release(lease).await;
    bench.ended(lease).await;
    bench.pass(9 * 3600).await;
    bench.clean().await;
}
