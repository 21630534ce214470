//! Whom a machine reaches: what its lease's policy allows, and nobody else.

use std::collections::BTreeMap;

use attack_probe::{Attempt, Heard};
use remote_docker_api::Egress;

use super::handshake;
use super::stage::{Eyes, PATIENCE, Party, SILENCE, Stage};
use super::target::{Target, all};

#[test]
fn a_machine_reaches_what_its_policy_allows_and_nobody_else() {
    let stage = Stage::new();
    for egress in [Egress::None, Egress::Open] {
        let attacker = stage.attacker(egress);
        policy_holds(&stage, &attacker, egress);
        stage.dismiss(&attacker);
    }
    let attacker = stage.attacker(Egress::Internet);
    policy_holds(&stage, &attacker, Egress::Internet);
    stage.nobody_is_harmed();

    stage.filters(false);
    everybody_is_reached(&stage, &attacker);
    stage.filters(true);
    stage.nobody_is_harmed();
}

fn policy_holds(stage: &Stage, attacker: &Party, egress: Egress) {
    let is_reached = |target: &Target| target.is_reached_under(egress);
    let handshakes = handshake::all(stage, attacker, SILENCE);
    let (mut wrong, heard) = attack(
        stage,
        attacker,
        &format!("{egress:?}"),
        is_reached,
        handshakes,
    );
    wrong.extend(handshake::not_silent(&heard));
    assert!(wrong.is_empty(), "under {egress:?}: {wrong:#?}");
}

/// The same attempts with the filters taken away.
fn everybody_is_reached(stage: &Stage, attacker: &Party) {
    let handshakes = handshake::all(stage, attacker, PATIENCE);
    let (mut wrong, heard) = attack(stage, attacker, "unguarded", |_| true, handshakes);
    wrong.extend(handshake::not_by_certificate(&heard));
    assert!(wrong.is_empty(), "without filters: {wrong:#?}");
}

/// Tries to reach everybody, and others things besides. Tells of each target of which it is not as it should be what
/// was the matter, and what the probe heard.
fn attack(
    stage: &Stage,
    attacker: &Party,
    run: &str,
    is_reached: impl Fn(&Target) -> bool,
    besides: Vec<Attempt>,
) -> (Vec<String>, BTreeMap<String, Heard>) {
    let targets = all(stage);
    let word = |number: usize| format!("<{run} {number}>");
    let numbered = || targets.iter().enumerate();
    let mut plan = besides;
    plan.extend(
        numbered().map(|(number, target)| target.attempt(&word(number), is_reached(target))),
    );
    let eyes = stage.watch(attacker);
    let heard = stage.attack(attacker, &eyes, &plan);
    let judge = |(number, target): (usize, &Target)| {
        let answer = &heard[&target.name];
        let fault = if is_reached(target) {
            not_reached(stage, &eyes, attacker, target, &word(number))
        } else {
            not_kept_from(stage, &eyes, attacker, target, &word(number), answer)
        };
        fault.map(|fault| format!("{}: {fault}; the probe heard {answer:?}", target.name))
    };
    let wrong = numbered().filter_map(judge).collect();
    (wrong, heard)
}

fn not_reached(
    stage: &Stage,
    eyes: &Eyes,
    attacker: &Party,
    target: &Target,
    word: &str,
) -> Option<String> {
    let reached = target.reached(stage, eyes, attacker, word);
    reached.is_none().then(|| "was not reached".to_owned())
}

fn not_kept_from(
    stage: &Stage,
    eyes: &Eyes,
    attacker: &Party,
    target: &Target,
    word: &str,
    answer: &Heard,
) -> Option<String> {
    if !target.was_tried(eyes) {
        return Some("was not even tried".to_owned());
    }
    if let Some(place) = target.reached(stage, eyes, attacker, word) {
        return Some(format!("was reached {place}"));
    }
    (*answer != Heard::Silence).then(|| "answered".to_owned())
}
