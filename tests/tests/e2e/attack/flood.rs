//! A machine that opens connections without end: the host's kernel follows those of all machines in one table.

use std::net::SocketAddrV4;

use attack_probe::{Attempt, Deed, Heard};
use e2e::TestServer;
use remote_docker_api::Egress;

use super::forge::{ends, says};
use super::place::PORT;
use super::stage::{PATIENCE, PUBLIC, Party, Stage, millis};
use super::witness::{Frame, Way};

/// How many connections a machine may have here.
const MOST: u16 = 100;
const TRIED: u16 = 1000;
/// Those of the victim, of the server and of the test itself.
const OTHERS: usize = 50;

#[test]
fn a_machine_that_opens_connections_without_end_takes_none_of_anothers() {
    let limited = TestServer::builder().set("network.limits.connections", MOST);
    let stage = Stage::of(limited);
    let attacker = stage.attacker(Egress::Internet);
    stage.bring_probe(&stage.victim);

    let opened = flood(&stage, &attacker, "guarded");
    assert!((1..=usize::from(MOST)).contains(&opened), "{opened}");
    for place in [&stage.inside, &stage.host] {
        let followed = place.sh("cat /proc/sys/net/netfilter/nf_conntrack_count");
        let followed: usize = followed.parse().unwrap();
        assert!(followed <= usize::from(MOST) + OTHERS, "{followed}");
    }
    the_victim_connects(&stage);
    stage.nobody_is_harmed();

    stage.filters(false);
    let opened = flood(&stage, &attacker, "unguarded");
    assert!(
        opened > usize::from(MOST) + OTHERS,
        "the probe itself works: {opened}"
    );
    stage.filters(true);
}

/// From how many ports datagrams arrive.
fn flood(stage: &Stage, attacker: &Party, word: &str) -> usize {
    let attempt = Attempt {
        name: "a flood".to_owned(),
        deed: Deed::Flood {
            to: SocketAddrV4::new(PUBLIC, PORT),
            ports: TRIED,
            say: word.to_owned(),
        },
        patience_ms: 0,
    };
    let eyes = stage.watch(attacker);
    let heard = stage.attack(attacker, &eyes, &[attempt]);
    assert_eq!(heard["a flood"], Heard::Silence);
    let ports = |way| {
        move |frame: &Frame| {
            let is_it = frame.way == way && says(&frame.bytes, word);
            is_it.then(|| ends(&frame.bytes).map(|(from, _)| from.port))?
        }
    };
    assert_eq!(eyes.attacker.all(ports(Way::In)).len(), usize::from(TRIED));
    eyes.outside.all(ports(Way::In)).len()
}

fn the_victim_connects(stage: &Stage) {
    let attempt = Attempt {
        name: "a connection".to_owned(),
        deed: Deed::Tcp {
            to: SocketAddrV4::new(PUBLIC, PORT),
            say: "good day".to_owned(),
        },
        patience_ms: millis(PATIENCE),
    };
    let eyes = stage.watch(&stage.victim);
    let heard = stage.attack(&stage.victim, &eyes, &[attempt]);
    assert_eq!(heard["a connection"], Heard::Answer("welcome".to_owned()));
}
