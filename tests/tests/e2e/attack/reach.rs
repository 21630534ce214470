//! Whom a machine reaches: what its lease's policy allows, and nobody else.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};

use attack_probe::{Attempt, Deed, Heard};
use remote_docker_api::Egress;

use super::stage::{Eyes, HOST, PATIENCE, Party, Stage};
use super::target::{AGENT_PORT, Target, all, relay_port};

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
    let plan = handshakes(&stage, &attacker);
    let heard = stage.attack(&attacker, &stage.watch(&attacker), &plan);
    assert!(
        heard.values().all(|heard| *heard == Heard::Silence),
        "{heard:#?}"
    );
    stage.nobody_is_harmed();

    stage.filters(false);
    everybody_is_reached(&stage, &attacker);
    certificates_still_count(&stage, &attacker);
    stage.filters(true);
    stage.nobody_is_harmed();
}

fn policy_holds(stage: &Stage, attacker: &Party, egress: Egress) {
    let is_reached = |target: &Target| target.is_reached_under(egress);
    let wrong = wrong(stage, attacker, &format!("{egress:?}"), is_reached);
    assert!(wrong.is_empty(), "under {egress:?}: {wrong:#?}");
}

/// The same attempts with the filters taken away.
fn everybody_is_reached(stage: &Stage, attacker: &Party) {
    let wrong = wrong(stage, attacker, "unguarded", |_| true);
    assert!(wrong.is_empty(), "without filters: {wrong:#?}");
}

/// Tries to reach everybody, and tells of each of whom it is not as it should be what was the matter.
fn wrong(
    stage: &Stage,
    attacker: &Party,
    run: &str,
    is_reached: impl Fn(&Target) -> bool,
) -> Vec<String> {
    let targets = all(stage);
    let word = |number: usize| format!("<{run} {number}>");
    let numbered = || targets.iter().enumerate();
    let plan: Vec<_> = numbered()
        .map(|(number, target)| target.attempt(&word(number), is_reached(target)))
        .collect();
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
    numbered().filter_map(judge).collect()
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

/// What each holder of a certificate says to the victim's daemon.
const PING: &str = "GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n";

/// Handshakes with the victim's daemon, by the relay and by the machine's own address.
fn handshakes(stage: &Stage, attacker: &Party) -> Vec<Attempt> {
    let identity = |party: &Party| {
        let file = |name| fs::read_to_string(party.machine.certificates().join(name)).unwrap();
        Some((file("cert.pem"), file("key.pem")))
    };
    let (own, stolen) = (identity(attacker), identity(&stage.victim));
    let ways: [(&str, Ipv4Addr, u16); 2] = [
        ("by the relay", HOST, relay_port(&stage.victim)),
        ("directly", stage.victim.address, AGENT_PORT),
    ];
    let identities = [
        ("without a certificate", None),
        ("with one's own certificate", own),
        ("with the victim's certificate", stolen),
    ];
    let mut plan = Vec::new();
    for (way, address, port) in ways {
        for (name, identity) in &identities {
            plan.push(Attempt {
                name: format!("{name} {way}"),
                deed: Deed::Tls {
                    to: SocketAddrV4::new(address, port),
                    identity: identity.clone(),
                    say: PING.to_owned(),
                },
                patience_ms: 1500,
            });
        }
    }
    plan
}

/// Where no filter stands between, TLS does, unless the key was stolen as well.
fn certificates_still_count(stage: &Stage, attacker: &Party) {
    let mut plan = handshakes(stage, attacker);
    for attempt in &mut plan {
        attempt.patience_ms = u64::try_from(PATIENCE.as_millis()).unwrap();
    }
    let heard = stage.attack(attacker, &stage.watch(attacker), &plan);
    for (name, heard) in &heard {
        let is_let_in = matches!(heard, Heard::Answer(said) if said.contains("200 OK"));
        assert_eq!(
            is_let_in,
            name.contains("the victim's"),
            "{name}: {heard:?}"
        );
        assert!(
            is_let_in || matches!(heard, Heard::Refusal(_)),
            "{name}: {heard:?}"
        );
    }
}
