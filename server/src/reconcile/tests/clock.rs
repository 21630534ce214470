//! A host whose clock is set: deadlines do not follow, and what others read does.

use remote_docker_api::{EndReason, LeaseId};
use time::OffsetDateTime;
use x509_parser::pem::parse_x509_pem;

use super::bench::{Ask, Bench, key};
use super::watching::asked_again;
use crate::calendar::Calendar;
use crate::config::{PoolConfig, ScheduleConfig};
use crate::lease::Grant;
use crate::store::Moved;

const HOUR_S: i64 = 3600;

async fn beat(bench: &Bench, lease: LeaseId) {
    let answer = bench.store.heartbeat(lease, bench.now()).await.unwrap();
    assert!(matches!(answer, Moved::Done(_)), "{answer:?}");
}

/// From when to when a certificate is good.
fn validity(pem: &str) -> (OffsetDateTime, OffsetDateTime) {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).unwrap();
    let validity = pem.parse_x509().unwrap().validity().clone();
    let at = |time: x509_parser::time::ASN1Time| time.to_datetime();
    (at(validity.not_before), at(validity.not_after))
}

#[track_caller]
fn assert_good_at(grant: &Grant, moment: OffsetDateTime) {
    for pem in [&grant.ca_pem, &grant.cert_pem] {
        let (from, to) = validity(pem);
        assert!(from < moment && moment < to, "{moment}: {from} to {to}");
    }
}

#[tokio::test]
async fn a_lease_ends_at_its_time_however_the_hosts_clock_is_set() {
    for by in [HOUR_S, -HOUR_S] {
        let mut bench = Bench::started().await;
        let lease = bench.ask_for(1800).await;
        bench.active(lease).await;
        bench.pass(10).await;
        bench.set_clock(by).await;
        bench.goes_round().await;
        assert!(bench.is_active(lease).await, "{by}: it is not over");
        bench.pass(1789).await;
        bench.goes_round().await;
        assert!(bench.is_active(lease).await, "{by}: it has a second left");
        bench.pass(1).await;
        assert_eq!(bench.ended(lease).await, EndReason::Expired);
        bench.clean().await;
    }
}

#[tokio::test]
async fn silence_and_idleness_last_as_long_as_they_do_however_the_hosts_clock_is_set() {
    for by in [HOUR_S, -HOUR_S] {
        let mut bench = Bench::started().await;
        let silent = bench
            .ask_with(Ask {
                ttl_s: 7200,
                keepalive_s: Some(60),
                ..Ask::default()
            })
            .await;
        let idle = bench.ask_idle(90).await;
        bench.active(silent).await;
        let vm = bench.active(idle).await.vm;
        let used_at = bench.now();
        bench.sim.guest(vm, |guest| guest.used_at = Some(used_at));
        asked_again(&bench, vm).await;
        bench.set_clock(by).await;
        bench.goes_round().await;
        assert!(bench.is_active(silent).await && bench.is_active(idle).await);
        beat(&bench, silent).await;
        bench.pass(59).await;
        bench.goes_round().await;
        assert!(bench.is_active(silent).await && bench.is_active(idle).await);
        bench.pass(1).await;
        assert_eq!(bench.ended(silent).await, EndReason::KeepaliveMissed);
        bench.pass(31).await;
        asked_again(&bench, vm).await;
        bench.poke().await;
        assert_eq!(bench.ended(idle).await, EndReason::Idle);
        bench.clean().await;
    }
}

#[tokio::test]
async fn a_server_that_starts_again_after_the_hosts_clock_was_set_ends_nobody_early_or_late() {
    for by in [HOUR_S, -HOUR_S] {
        let mut bench = Bench::started().await;
        let lease = bench.ask_for(1800).await;
        bench.active(lease).await;
        bench.crash().await;
        bench.pass(100).await;
        bench.set_clock(by).await;
        bench.start().await;
        bench.goes_round().await;
        assert!(bench.is_active(lease).await, "{by}: it is not over");
        bench.pass(1699).await;
        bench.goes_round().await;
        assert!(bench.is_active(lease).await, "{by}: it has a second left");
        bench.pass(1).await;
        assert_eq!(bench.ended(lease).await, EndReason::Expired);
    }
}

#[tokio::test]
async fn certificates_are_good_before_and_after_the_hosts_clock_is_set() {
    for by in [HOUR_S, -HOUR_S] {
        let mut bench = Bench::started().await;
        let before = bench.ask().await;
        let before = bench.active(before).await;
        bench.set_clock(by).await;
        let after = bench.ask().await;
        // Its guest has the time that the host's clock shows, or it would not be handed out.
        let after = bench.active(after).await;
        let (right, wrong) = (bench.wall(), bench.wall() - time::Duration::seconds(by));
        for grant in [&before, &after] {
            for moment in [right, wrong] {
                assert_good_at(grant, moment);
                assert_good_at(grant, moment + time::Duration::hours(24));
            }
        }
    }
}

#[tokio::test]
async fn a_calendar_goes_by_the_hosts_clock() {
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
        schedule: vec![change("0 9 * * *", 1), change("0 18 * * *", 0)],
    };
    bench.settings.calendar = Calendar::new([(key(), pool)]).unwrap();
    bench.start().await;
    bench
        .eventually("nothing is kept ready yet", |bench| {
            bench.status().looked && bench.sim.vms().is_empty()
        })
        .await;
    bench.set_clock(HOUR_S).await;
    bench.ready_one().await;
}
