//! What a machine says that it is: another one, the gateway, a DHCP server, a router. Frames are made by hand, as
//! the attacker's own system would not send most of them.

use std::net::Ipv4Addr;

use attack_probe::{Attempt, Deed};
use e2e::eventually;
use remote_docker_api::Egress;
use remote_dockerd::network::{GATEWAY, GATEWAY_MAC, GUEST_MAC};

use super::forge::{Ends, FROM_PORT, is_about_our_ping, is_arp_reply_to};
use super::place::PORT;
use super::stage::{Eyes, PATIENCE, PRIVATE, PUBLIC, Party, Stage};
use super::witness::Way;

/// The one card of a machine.
const CARD: &str = "eth0";
/// Of a card that no machine has.
const FALSE_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 9];
/// As an honest machine says it.
const OWN: Ends = Ends {
    from: GUEST_MAC,
    to: GATEWAY_MAC,
};
const FALSE: Ends = Ends {
    from: FALSE_MAC,
    to: GATEWAY_MAC,
};
/// An address that no machine has.
const FREE: Ipv4Addr = Ipv4Addr::new(10, 213, 200, 200);

/// Whether an attack succeeded, as far as anybody saw.
type Success = fn(&Stage, &Eyes, &Party, &str) -> bool;

/// A frame, and what it would do if it were let.
struct Claim {
    name: &'static str,
    frame: Vec<u8>,
    succeeded: Success,
}

#[test]
fn what_a_machine_claims_to_be_is_believed_by_nobody() {
    let stage = Stage::new();
    let attacker = stage.attacker(Egress::Internet);
    stage.bring_probe(&stage.victim);
    victim_speaks(&stage);
    let (one, other) = (&attacker.tap, &stage.victim.tap);
    let known = || {
        let neighbours = |tap| format!("ip neighbour show dev {tap}; ip route show dev {tap}");
        let script = format!("{}; {}; ip -6 route", neighbours(one), neighbours(other));
        stage.inside.sh(&script)
    };
    let before = known();
    assert!(before.contains("PERMANENT"), "{before}");

    let succeeded = try_all(&stage, &attacker, "guarded", |_| false);
    assert_eq!(succeeded, Vec::<&str>::new(), "were not stopped");
    assert_eq!(known(), before, "what is known inside");
    stage.nobody_is_harmed();

    unguard(&stage, &attacker);
    let mut missed = Vec::new();
    let succeeded = try_all(&stage, &attacker, "unguarded", |name| {
        missed.push(name);
        true
    });
    missed.retain(|name| !succeeded.contains(name));
    assert_eq!(missed, Vec::<&str>::new(), "the probe does not work");
    guard(&stage);
    stage.nobody_is_harmed();
}

/// The victim asks something on the Internet, and is answered. That is remembered for longer than the test takes.
fn victim_speaks(stage: &Stage) {
    for place in [&stage.inside, &stage.host] {
        place.sh(
            "cd /proc/sys/net/netfilter
             for time in nf_conntrack_udp_timeout nf_conntrack_udp_timeout_stream; do echo 600 >$time; done",
        );
    }
    let victim = &stage.victim;
    let attempt = Attempt {
        name: "the victim's question".to_owned(),
        deed: Deed::Frame {
            device: CARD.to_owned(),
            bytes: OWN.datagram(victim.address, (PUBLIC, PORT), "a question"),
        },
        patience_ms: 0,
    };
    let eyes = stage.watch(victim);
    stage.attack(victim, &eyes, &[attempt]);
    assert_eq!(eyes.saw("a question"), Some("on the host"));
    assert!(stage.heard("a question").is_some());
}

/// Sends each of them and tells which succeeded. Those of which that is expected are waited for.
fn try_all(
    stage: &Stage,
    attacker: &Party,
    run: &str,
    mut is_expected: impl FnMut(&'static str) -> bool,
) -> Vec<&'static str> {
    let word = |number: usize| format!("<{run} {number}>");
    let eyes = stage.watch(attacker);
    let claims = claims(stage, attacker, word);
    let attempt = |claim: &Claim| Attempt {
        name: claim.name.to_owned(),
        deed: Deed::Frame {
            device: CARD.to_owned(),
            bytes: claim.frame.clone(),
        },
        patience_ms: 0,
    };
    let plan: Vec<_> = claims.iter().map(attempt).collect();
    let heard = stage.attack(attacker, &eyes, &plan);
    let mut succeeded = Vec::new();
    for (number, claim) in claims.iter().enumerate() {
        let (name, word) = (claim.name, word(number));
        assert!(
            eyes.was_sent(&word),
            "{name} was not sent: {:?}",
            heard[name]
        );
        let succeeds = || (claim.succeeded)(stage, &eyes, attacker, &word);
        if is_expected(name) {
            eventually(name, PATIENCE, || succeeds().then_some(()).ok_or("not yet"));
        }
        if succeeds() {
            succeeded.push(name);
        }
    }
    succeeded
}

fn claims(stage: &Stage, attacker: &Party, word: impl Fn(usize) -> String) -> Vec<Claim> {
    let (own, victim) = (attacker.address, stage.victim.address);
    let public = (PUBLIC, PORT);
    let inner_end = stage.uplink_ends[1];
    let loopback = Ipv4Addr::LOCALHOST;
    let mut list = Vec::new();
    let mut add = |name, succeeded: Success, frame: &dyn Fn(&str) -> Vec<u8>| {
        let frame = frame(&word(list.len()));
        list.push(Claim {
            name,
            frame,
            succeeded,
        });
    };

    // Packets that go out, or into the namespace, under a false name.
    add("a datagram from the victim's address", got_on, &|word| {
        OWN.datagram(victim, public, word)
    });
    add("a datagram from a free address", got_on, &|word| {
        OWN.datagram(FREE, public, word)
    });
    add("a datagram from a public address", got_on, &|word| {
        OWN.datagram(Ipv4Addr::new(9, 9, 9, 9), public, word)
    });
    add("a datagram from the gateway's address", got_on, &|word| {
        OWN.datagram(GATEWAY, public, word)
    });
    add("a datagram from the uplink's address", got_on, &|word| {
        OWN.datagram(inner_end, public, word)
    });
    add("a datagram from a false card", got_on, &|word| {
        FALSE.datagram(own, public, word)
    });
    add("a datagram from the gateway's card", got_on, &|word| {
        let ends = Ends {
            from: GATEWAY_MAC,
            ..OWN
        };
        ends.datagram(own, public, word)
    });
    add("a datagram to the namespace's loopback", got_on, &|word| {
        OWN.datagram(own, (loopback, PORT), word)
    });
    add("a datagram to the victim from itself", got_on, &|word| {
        OWN.datagram(victim, (victim, PORT), word)
    });
    add("a datagram that chooses its route", got_on, &|word| {
        OWN.routed_datagram(own, GATEWAY, (PRIVATE[0], PORT), word)
    });

    add("a word on the victim's connection", got_on, &|word| {
        OWN.unreachable(own, public, (victim, FROM_PORT), word)
    });

    // What is said to all.
    add("a DHCP offer", got_across, &|word| {
        OWN.dhcp_offer(own, FREE, word)
    });
    add("a claim to be the victim", got_across, &|word| {
        FALSE.claim(victim, word)
    });
    add("a claim to be the gateway", got_across, &|word| {
        OWN.claim(GATEWAY, word)
    });
    add(
        "a question to all from the victim",
        was_answered_as_victim,
        &|word| OWN.who_has(victim, GATEWAY, word),
    );
    add("a router's advertisement", was_followed, &|word| {
        OWN.router_advertisement(word)
    });
    add("a question to all by IPv6", was_answered_by_ipv6, &|word| {
        OWN.ping_all_nodes(word)
    });
    list
}

/// Somebody heard it, or saw it beyond the machines' namespace.
fn got_on(stage: &Stage, eyes: &Eyes, _attacker: &Party, word: &str) -> bool {
    stage.heard(word).is_some() || eyes.saw(word).is_some()
}

/// It was seen on the victim's wire.
fn got_across(_stage: &Stage, eyes: &Eyes, _attacker: &Party, word: &str) -> bool {
    eyes.saw(word).is_some()
}

fn was_answered_as_victim(stage: &Stage, eyes: &Eyes, _attacker: &Party, _word: &str) -> bool {
    let victim = stage.victim.address;
    eyes.attacker
        .saw(|frame| frame.way == Way::Out && is_arp_reply_to(&frame.bytes, victim))
}

/// The namespace took the advertiser for its router.
fn was_followed(stage: &Stage, eyes: &Eyes, attacker: &Party, word: &str) -> bool {
    let routes = stage.inside.sh("ip -6 route show default");
    eyes.saw(word).is_some() || routes.contains(&attacker.tap)
}

fn was_answered_by_ipv6(_stage: &Stage, eyes: &Eyes, _attacker: &Party, word: &str) -> bool {
    let answered = eyes
        .attacker
        .saw(|frame| frame.way == Way::Out && is_about_our_ping(&frame.bytes));
    answered || eyes.saw(word).is_some()
}

/// The kernel's own guards, as they stand and as an attacker would like them.
const SWITCHES: [(&str, &str, &str); 5] = [
    ("ipv4", "rp_filter", "0"),
    ("ipv4", "route_localnet", "1"),
    ("ipv4", "accept_local", "1"),
    ("ipv4", "accept_source_route", "1"),
    ("ipv6", "disable_ipv6", "0"),
];

/// Takes every guard away: filters, the kernel's switches, and that wires are not joined.
fn unguard(stage: &Stage, attacker: &Party) {
    stage.filters(false);
    let (from, to) = (&attacker.tap, &stage.victim.tap);
    let mut script = String::from("nft 'add table arp remote_dockerd { flags dormant; }'\n");
    for (family, key, value) in SWITCHES {
        for device in ["all", from] {
            script += &format!("echo {value} >/proc/sys/net/{family}/conf/{device}/{key}\n");
        }
    }
    // What is said to all on one wire is now said on the other too.
    script += &format!(
        "nft 'table netdev joined {{
            chain in {{
                type filter hook ingress device {from} priority 0;
                ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 dup to {to}
            }}
        }}'\n"
    );
    stage.inside.sh(&script);
}

/// Puts filters back, and parts the wires.
fn guard(stage: &Stage) {
    stage.filters(true);
    stage
        .inside
        .sh("nft 'add table arp remote_dockerd; delete table netdev joined'");
}
