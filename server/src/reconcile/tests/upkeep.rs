//! Templates that fail, grow old and go.

use super::bench::Bench;
use crate::hypervisor::sim::{SimFault, Verb};
use crate::lease::LeasePhase;

fn kinds(bench: &Bench) -> Vec<&'static str> {
    bench
        .sim
        .starts()
        .into_iter()
        .map(|(_, kind)| kind)
        .collect()
}

async fn built(bench: &Bench) {
    bench
        .eventually("a template is there", |bench| {
            bench.status().cold.is_empty()
        })
        .await;
}

#[tokio::test]
async fn a_template_that_cannot_be_built_gives_way_to_cold_boots_and_is_tried_again() {
    let mut bench = Bench::started().await;
    bench.sim.inject(Verb::Snapshot, SimFault::Fails);
    bench.sim.inject(Verb::Snapshot, SimFault::Fails);
    let lease = bench.ask().await;
    let grant = bench.active(lease).await;
    assert_eq!(kinds(&bench), ["template", "cold"]);
    let steps: Vec<_> = grant.timings.iter().map(|it| it.step.as_str()).collect();
    assert!(steps.contains(&"boot"), "{steps:?}");
    let why = bench.status().cold["26/small"].clone();
    assert!(
        why.contains("could not be built") && why.contains("tried again after"),
        "{why}"
    );

    // After 1 s, and then after 2 s.
    bench.pass(1).await;
    bench
        .eventually("it is built again", |bench| {
            kinds(bench).len() == 3 && !bench.sim.has_fault(Verb::Snapshot)
        })
        .await;
    bench
        .eventually("and fails again", |bench| {
            bench.status().cold["26/small"].contains("tried again after")
        })
        .await;
    bench.pass(1).await;
    assert_eq!(kinds(&bench), ["template", "cold", "template"]);
    bench.pass(1).await;
    built(&bench).await;
    let other = bench.ask().await;
    bench.active(other).await;
    assert_eq!(kinds(&bench)[3..], ["template", "clone"]);
}

#[tokio::test]
async fn nobody_waits_for_a_template_that_is_tried_again() {
    let mut bench = Bench::started().await;
    bench.sim.inject(Verb::Snapshot, SimFault::Fails);
    bench.sim.inject(Verb::Snapshot, SimFault::Hangs);
    let first = bench.ask().await;
    bench.active(first).await;
    bench.pass(1).await;
    bench
        .eventually("it is built again, and hangs", |bench| {
            !bench.sim.has_fault(Verb::Snapshot)
        })
        .await;
    let second = bench.ask().await;
    bench.active(second).await;
    assert_eq!(kinds(&bench), ["template", "cold", "template", "cold"]);
}

#[tokio::test]
async fn a_template_is_not_tried_again_at_the_price_of_a_lease() {
    let mut bench = Bench::new().await;
    bench.settings.policy.budget.memory_mib = 1024;
    bench.start().await;
    bench.sim.inject(Verb::Snapshot, SimFault::Fails);
    let lease = bench.ask().await;
    bench.active(lease).await;
    bench.pass(100).await;
    bench
        .eventually("it is still due", |bench| {
            bench.status().cold["26/small"].contains("tried again after")
        })
        .await;
    let next = bench.ask().await;
    bench.release(lease).await;
    bench.active(next).await;
    assert_eq!(kinds(&bench), ["template", "cold", "cold"]);
}

/// Lets three clones fail.
async fn spoil(bench: &mut Bench, verb: Verb, fault: SimFault) {
    for _ in 0..3 {
        bench.sim.inject(verb, fault);
    }
    bench.ask().await;
    // Each failure holds back the next try a little longer.
    for _ in 0..1000 {
        if bench.templates().iter().any(|it| it.join("unfit").exists()) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        bench.pass(1).await;
    }
    panic!("its template is not given up: {:?}", bench.status());
}

#[tokio::test]
async fn a_template_whose_clones_fail_is_given_up_and_built_again() {
    for (verb, fault) in [
        (Verb::Activate, SimFault::Lies),
        (Verb::Start, SimFault::Fails),
    ] {
        let mut bench = Bench::started().await;
        let lease = bench.ask().await;
        let kept = bench.active(lease).await;
        spoil(&mut bench, verb, fault).await;
        let bad = bench.templates()[0].clone();
        bench.pass(5).await;
        bench
            .eventually("there is another", |bench| {
                bench.status().cold.is_empty() && bench.templates().len() == 2
            })
            .await;
        // A machine that was made of the first goes on, and keeps it on disk.
        assert!(bad.exists());
        assert_eq!(
            bench.lease(lease).await.phase,
            LeasePhase::Active(Box::new(kept))
        );
        bench.release(lease).await;
        bench
            .eventually("the first is removed", |_| !bad.exists())
            .await;
        assert_eq!(bench.templates().len(), 1, "{verb:?}");
    }
}

#[tokio::test]
async fn a_bad_template_is_not_used_by_the_next_start() {
    let mut bench = Bench::started().await;
    let lease = bench.ask().await;
    bench.active(lease).await;
    // The one that takes its place is not done before the crash.
    bench.sim.inject(Verb::Snapshot, SimFault::Hangs);
    spoil(&mut bench, Verb::Activate, SimFault::Lies).await;
    bench.pass(5).await;
    bench
        .eventually("it is being built", |bench| {
            !bench.sim.has_fault(Verb::Snapshot)
        })
        .await;
    bench.crash().await;
    let before = kinds(&bench).len();
    bench.start().await;
    let next = bench.ask().await;
    bench.active(next).await;
    assert_eq!(kinds(&bench)[before], "template");
}

#[tokio::test]
async fn an_image_that_was_replaced_is_not_the_templates_fault() {
    let mut bench = Bench::started().await;
    let lease = bench.ask().await;
    bench.active(lease).await;
    bench.replace_image();
    bench.ask().await;
    for tries in 1..=5 {
        bench
            .eventually("a start was tried", |bench| {
                bench.troubles().contains("was replaced")
            })
            .await;
        bench.pass(60).await;
        assert!(
            bench.status().cold.is_empty(),
            "{tries}: {:?}",
            bench.status()
        );
    }
}

#[tokio::test]
async fn a_template_of_another_image_goes_when_its_last_machine_has_gone() {
    let mut bench = Bench::started().await;
    let lease = bench.ask().await;
    bench.active(lease).await;
    let old = bench.templates();
    bench.stop().await;
    for offer in bench.settings.offers.values_mut() {
        offer.image_digest = "newer".into();
    }
    bench.start().await;
    let other = bench.ask().await;
    bench.active(other).await;
    assert_eq!(bench.templates().len(), 2);
    assert!(old[0].exists(), "a machine may still read it");
    bench.release(lease).await;
    bench
        .eventually("it is removed", |_| !old[0].exists())
        .await;
    assert_eq!(bench.templates().len(), 1);
}
