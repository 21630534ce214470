//! Handshakes with the other lease's daemon, which a filter keeps from it, and TLS where none does.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddrV4;
use std::time::Duration;

use attack_probe::{Attempt, Deed, Heard};

use super::stage::{HOST, Party, Stage, millis};
use super::target::{AGENT_PORT, relay_port};

/// What each holder of a certificate says to the daemon.
const PING: &str = "GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n";
/// The one that opens the door.
const STOLEN: &str = "TLS with the victim's certificate";

/// By the relay and by the machine's own address, with each certificate that an attacker might have.
pub(super) fn all(stage: &Stage, attacker: &Party, patience: Duration) -> Vec<Attempt> {
    let identity = |party: &Party| {
        let file = |name| fs::read_to_string(party.machine.certificates().join(name)).unwrap();
        Some((file("cert.pem"), file("key.pem")))
    };
    let ways = [
        ("by the relay", HOST, relay_port(&stage.victim)),
        ("directly", stage.victim.address, AGENT_PORT),
    ];
    let identities = [
        ("TLS without a certificate", None),
        ("TLS with one's own certificate", identity(attacker)),
        (STOLEN, identity(&stage.victim)),
    ];
    let handshake = |(way, address, port), (name, identity): &(&str, _)| Attempt {
        name: format!("{name} {way}"),
        deed: Deed::Tls {
            to: SocketAddrV4::new(address, port),
            identity: Option::clone(identity),
            say: PING.to_owned(),
        },
        patience_ms: millis(patience),
    };
    let each = |way| {
        identities
            .iter()
            .map(move |identity| handshake(way, identity))
    };
    ways.into_iter().flat_map(each).collect()
}

/// Those that had an answer of any kind.
pub(super) fn not_silent(heard: &BTreeMap<String, Heard>) -> Vec<String> {
    wrong(heard, |_, heard| *heard == Heard::Silence)
}

/// Those that were let in without the right key, or not let in with it.
pub(super) fn not_by_certificate(heard: &BTreeMap<String, Heard>) -> Vec<String> {
    wrong(heard, |name, heard| match heard {
        Heard::Answer(said) => name.starts_with(STOLEN) && said.contains("200 OK"),
        Heard::Refusal(_) => !name.starts_with(STOLEN),
        _ => false,
    })
}

fn wrong(heard: &BTreeMap<String, Heard>, is_right: impl Fn(&str, &Heard) -> bool) -> Vec<String> {
    let handshakes = heard.iter().filter(|(name, _)| name.starts_with("TLS "));
    let wrong: Vec<_> = handshakes
        .clone()
        .filter(|(name, heard)| !is_right(name, heard))
        .map(|(name, heard)| format!("{name}: {heard:?}"))
        .collect();
    assert_eq!(handshakes.count(), 6, "{heard:?}");
    wrong
}
