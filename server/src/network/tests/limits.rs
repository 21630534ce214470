//! How much one machine may have of what all share.

use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::frames::{Card, is_gateways_answer, who_has};
use super::lab::{Guest, Lab, PUBLIC, Place, config};
use crate::config::MachineLimits;
use crate::network::{GATEWAY, GUEST_MAC, Network, NetworkConfig, Uplink, nft, rules};

/// Long against a round trip here, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);

fn open(lab: &Lab, limits: MachineLimits) -> Network {
    lab.open(NetworkConfig {
        limits,
        ..config(Uplink::default())
    })
}

/// Connections that stand at the same time out of `tried`.
fn connections(guest: &Guest<'_>, tried: usize) -> usize {
    guest.place.run(move || {
        let connect = |_| TcpStream::connect_timeout(&(PUBLIC, 80).into(), PATIENCE).ok();
        let open: Vec<_> = (0..tried).filter_map(connect).collect();
        open.len()
    })
}

#[test]
fn a_machine_that_has_all_its_connections_takes_none_of_anothers() {
    let lab = Lab::new();
    let internet = lab.internet();
    internet.serve(80);
    let network = open(
        &lab,
        MachineLimits {
            connections: 5,
            ..MachineLimits::default()
        },
    );
    let (one, other) = (lab.guest(&network, 1), lab.guest(&network, 2));
    assert_eq!(connections(&one, 7), 5);
    assert_eq!(connections(&other, 5), 5);

    let _again = open(&lab, MachineLimits::default());
    assert_eq!(connections(&one, 7), 7, "the probe itself works");
}

/// More than limits let through, and less than a socket keeps that nobody reads from meanwhile.
const MANY: u16 = 200;

/// How many of so many datagrams arrive, each from a port of its own or all from one, and how long that took.
fn flood(internet: &Place<'_>, guest: &Guest<'_>, count: u16, ports: bool) -> (usize, Duration) {
    let receiver = internet.run(|| UdpSocket::bind((PUBLIC, 0)).unwrap());
    let to = receiver.local_addr().unwrap();
    let start = Instant::now();
    let taken = guest.place.run(move || {
        let bind = || UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        let one = bind();
        for _ in 0..count {
            let fresh = ports.then(bind);
            fresh.as_ref().unwrap_or(&one).send_to(b"x", to).unwrap();
        }
        start.elapsed()
    });
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = (0..count).take_while(|_| receiver.recv(&mut [0; 4]).is_ok());
    (heard.count(), taken)
}

#[test]
fn new_connections_have_a_rate() {
    let lab = Lab::new();
    let internet = lab.internet();
    let slow = MachineLimits {
        new_per_s: 1,
        new_burst: 3,
        ..MachineLimits::default()
    };
    let network = open(&lab, slow);
    let (one, other) = (lab.guest(&network, 1), lab.guest(&network, 2));
    let (heard, taken) = flood(&internet, &one, 100, true);
    let most = 5 + usize::try_from(taken.as_secs()).unwrap();
    assert!((3..=most).contains(&heard), "{heard} in {taken:?}");
    // One that stands is not new, and another machine has its own rate.
    assert_eq!(flood(&internet, &other, 100, false).0, 100);

    let _again = open(&lab, MachineLimits::default());
    assert_eq!(
        flood(&internet, &one, 100, true).0,
        100,
        "the probe itself works"
    );
}

#[test]
fn packets_have_a_rate() {
    let lab = Lab::new();
    let internet = lab.internet();
    let slow = MachineLimits {
        packets_per_s: 10,
        ..MachineLimits::default()
    };
    let network = open(&lab, slow);
    let guest = lab.guest(&network, 1);
    let (heard, taken) = flood(&internet, &guest, MANY, false);
    let most = 30 + 10 * usize::try_from(taken.as_secs()).unwrap();
    assert!((1..=most).contains(&heard), "{heard} in {taken:?}");

    let _again = open(&lab, MachineLimits::default());
    assert_eq!(
        flood(&internet, &guest, MANY, false).0,
        usize::from(MANY),
        "the probe itself works"
    );
}

/// How often the gateway is found by one guest while another asks for it without end.
fn found(one: &mut Card, other: &mut Card, patience: Duration) -> usize {
    let ask = |card: &Card| who_has(GUEST_MAC, card.address, GATEWAY);
    let (flood, question) = (ask(one), ask(other));
    let find = |_: &usize| {
        (0..2000).for_each(|_| one.send(&flood));
        other.send(&question);
        other.hears(patience, is_gateways_answer)
    };
    (0..QUESTIONS).filter(find).count()
}

const QUESTIONS: usize = 20;

#[test]
fn a_machine_that_asks_without_end_keeps_no_other_from_the_gateway() {
    let lab = Lab::new();
    let network = lab.open(config(Uplink::None));
    let mut one = Card::new(&lab, &network, 1);
    let mut other = Card::new(&lab, &network, 2);
    assert_eq!(found(&mut one, &mut other, PATIENCE), QUESTIONS);

    // The probe itself works: where all share one limit, the one takes it all.
    let rules = rules::namespace(rules::Inside::default());
    let guard = rules.lines().find(|line| line.contains("@askers")).unwrap();
    let shared = rules.replace(guard, "        limit rate over 100/second drop");
    lab.inside(&network)
        .run(move || nft::load(&shared).unwrap());
    let found = found(&mut one, &mut other, Duration::from_millis(100));
    assert!(found < QUESTIONS, "{found}");
}
