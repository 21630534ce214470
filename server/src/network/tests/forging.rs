//! A guest whose frames are not those of an honest one. Each test goes on to take the guard away and to see
//! the same frame do its work.

use std::fs;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::frames::{
    Card, claim, datagram, dhcp_offer, is_about_our_ping, is_gateways_answer, ping_all_nodes,
    router_advertisement, who_has,
};
use super::lab::{Lab, PUBLIC, Place, config, ip};
use crate::network::{GATEWAY, GUEST_MAC, Network, Uplink, nft, rules};

/// For what is expected to come, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);
/// For what is expected not to.
const SILENCE: Duration = Duration::from_millis(500);
/// Of a card that no guest has.
const FALSE_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 9];

fn with_uplink() -> String {
    rules::namespace(rules::Inside {
        uplink: true,
        ..rules::Inside::default()
    })
}

/// Loads the rules without the lines that have `guard` in them.
fn load_without(lab: &Lab, network: &Network, guard: &str) {
    let rules = with_uplink();
    assert!(rules.contains(guard), "{rules}");
    let rest: Vec<_> = rules.lines().filter(|line| !line.contains(guard)).collect();
    let rest = rest.join("\n");
    lab.inside(network).run(move || nft::load(&rest).unwrap());
}

fn arrives(internet: &Place<'_>, card: &mut Card, mac: [u8; 6], patience: Duration) -> bool {
    let receiver = internet.run(|| UdpSocket::bind((PUBLIC, 0)).unwrap());
    let to = (PUBLIC, receiver.local_addr().unwrap().port());
    let pause = Duration::from_millis(50);
    receiver.set_read_timeout(Some(pause)).unwrap();
    let start = Instant::now();
    while start.elapsed() < patience {
        card.send(&datagram(mac, card.address, to, b"hello"));
        if receiver.recv(&mut [0; 16]).is_ok() {
            return true;
        }
    }
    false
}

#[test]
fn a_false_hardware_address_does_not_get_out() {
    let lab = Lab::new();
    let internet = lab.internet();
    let network = lab.open(config(Uplink::default()));
    let mut card = Card::new(&lab, &network, 1);
    assert!(arrives(&internet, &mut card, GUEST_MAC, PATIENCE));
    assert!(!arrives(&internet, &mut card, FALSE_MAC, SILENCE));

    load_without(&lab, &network, "ether saddr !=");
    assert!(arrives(&internet, &mut card, FALSE_MAC, PATIENCE));
}

#[test]
fn only_the_gateway_answers_arp_and_only_to_the_guest_itself() {
    let lab = Lab::new();
    let network = lab.open(config(Uplink::None));
    let mut card = Card::new(&lab, &network, 1);
    let other = Card::new(&lab, &network, 2).address;
    let own = card.address;
    let mut asked = |mac, from, wanted, patience| {
        card.send(&who_has(mac, from, wanted));
        card.hears(patience, is_gateways_answer)
    };
    assert!(asked(GUEST_MAC, own, GATEWAY, PATIENCE));
    assert!(!asked(FALSE_MAC, own, GATEWAY, SILENCE));
    assert!(!asked(GUEST_MAC, other, GATEWAY, SILENCE));

    let without = format!("delete table arp {}", rules::TABLE);
    lab.inside(&network)
        .run(move || nft::load(&without).unwrap());
    assert!(asked(FALSE_MAC, own, GATEWAY, PATIENCE));
    // The kernel by itself does not take the other's address from this wire either.
    assert!(!asked(GUEST_MAC, other, GATEWAY, SILENCE));
    lab.inside(&network).run(move || {
        for device in ["all", "rd0000000000001"] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), "0").unwrap();
        }
    });
    assert!(asked(GUEST_MAC, other, GATEWAY, PATIENCE));
}

/// What a guest claims to be does not move what is known of others.
#[test]
fn a_claim_of_anothers_address_changes_nothing() {
    let lab = Lab::new();
    let network = lab.open(config(Uplink::None));
    let mut card = Card::new(&lab, &network, 1);
    let other = Card::new(&lab, &network, 2);
    let known = || lab.inside(&network).run(|| ip("neighbour show"));
    let before = known();
    assert!(before.contains(&other.vm.tap()), "{before}");
    for address in [other.address, GATEWAY, card.address] {
        card.send(&claim(FALSE_MAC, address));
    }
    // What comes after them is answered only when they have been looked at.
    card.send(&who_has(GUEST_MAC, card.address, GATEWAY));
    assert!(card.hears(PATIENCE, is_gateways_answer));
    assert_eq!(known(), before);

    // The probe itself works: it is believed where an entry is not there for good.
    let without = format!("delete table arp {}", rules::TABLE);
    let (tap, own) = (card.vm.tap(), card.address);
    lab.inside(&network).run(move || {
        nft::load(&without).unwrap();
        ip(&format!(
            "neighbour replace {own} lladdr 52:54:00:00:00:02 dev {tap} nud stale"
        ));
    });
    card.send(&claim(FALSE_MAC, own));
    card.send(&who_has(FALSE_MAC, own, GATEWAY));
    assert!(card.hears(PATIENCE, is_gateways_answer));
    let after = known();
    assert!(after.contains("52:54:00:00:00:09"), "{after}");
}

#[test]
fn nothing_that_is_said_to_everybody_is_heard_on_another_wire() {
    let lab = Lab::new();
    let network = lab.open(config(Uplink::None));
    let (mut one, mut other) = (Card::new(&lab, &network, 1), Card::new(&lab, &network, 2));
    let said = [
        dhcp_offer(one.address),
        router_advertisement(),
        claim(GUEST_MAC, other.address),
    ];
    for frame in &said {
        one.send(frame);
        assert!(!other.hears(SILENCE, |heard| heard == frame));
    }
    // The probe itself works: they are heard once the wires are joined.
    lab.inside(&network).run(|| {
        ip("link add joined type bridge");
        for device in ["rd0000000000001", "rd0000000000002"] {
            ip(&format!("link set {device} master joined"));
        }
        ip("link set joined up");
        // A kernel that filters what a bridge carries would ask our rules too.
        nft::load("flush ruleset").unwrap();
    });
    for frame in &said {
        let start = Instant::now();
        let mut heard = false;
        // A bridge learns for a while before it forwards.
        while !heard && start.elapsed() < PATIENCE {
            one.send(frame);
            heard = other.hears(Duration::from_millis(100), |heard| heard == frame);
        }
        assert!(heard);
    }
}

#[test]
fn there_is_no_ipv6() {
    let lab = Lab::new();
    let network = lab.open(config(Uplink::default()));
    let mut card = Card::new(&lab, &network, 1);
    let mut answered = |patience: Duration| {
        let start = Instant::now();
        let mut heard = false;
        while !heard && start.elapsed() < patience {
            card.send(&ping_all_nodes());
            heard = card.hears(Duration::from_millis(100), is_about_our_ping);
        }
        heard
    };
    let switch = |value: &'static str| {
        lab.inside(&network).run(move || {
            for device in ["all", "default", "rd0000000000001"] {
                let key = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
                fs::write(key, value).unwrap();
            }
        });
    };
    assert!(!answered(SILENCE), "both guards");
    switch("0");
    assert!(!answered(SILENCE), "the rules alone");
    let without = rules::without(rules::TABLE);
    lab.inside(&network)
        .run(move || nft::load(&without).unwrap());
    assert!(answered(PATIENCE), "neither guard");
    switch("1");
    assert!(!answered(SILENCE), "the kernel's switch alone");
}
