//! A guest that speaks of others' connections: what it says of them by ICMP belongs to them, as far as the tracking
//! of connections can tell.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::frames::{Card, datagram, unreachable};
use super::lab::{Lab, PUBLIC, config};
use crate::network::{GUEST_MAC, Uplink, nft, rules};

/// For what is expected to come, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);
/// For what is expected not to.
const SILENCE: Duration = Duration::from_millis(500);

#[test]
fn what_a_guest_says_of_anothers_connection_does_not_get_out() {
    let lab = Lab::new();
    let internet = lab.internet();
    let network = lab.open(config(Uplink::default()));
    let mut attacker = Card::new(&lab, &network, 1);
    let mut victim = Card::new(&lab, &network, 2);

    let server = internet.run(|| UdpSocket::bind((PUBLIC, 0)).unwrap());
    let pause = Duration::from_millis(50);
    server.set_read_timeout(Some(pause)).unwrap();
    let port = server.local_addr().unwrap().port();
    victim.send(&datagram(
        GUEST_MAC,
        victim.address,
        (PUBLIC, port),
        b"hello",
    ));
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let (_, peer) = server.recv_from(&mut [0; 16]).unwrap();
    server.connect(peer).unwrap();
    server.send(b"hello").unwrap();
    assert!(victim.hears(PATIENCE, |frame| frame.ends_with(b"hello")));

    server.set_read_timeout(Some(pause)).unwrap();
    // The server is told that its client has gone.
    let claim = unreachable(attacker.address, (PUBLIC, port), (victim.address, 4000));
    let mut is_believed = |patience: Duration| {
        let start = Instant::now();
        while start.elapsed() < patience {
            attacker.send(&claim);
            let heard = server.recv(&mut [0; 16]);
            if heard.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
                return true;
            }
        }
        false
    };
    assert!(!is_believed(SILENCE));

    let guard = "ct state related drop";
    let all = rules::namespace(rules::Inside {
        uplink: true,
        ..rules::Inside::default()
    });
    let rest: Vec<_> = all.lines().filter(|line| !line.contains(guard)).collect();
    let rest = rest.join("\n");
    lab.inside(&network).run(move || nft::load(&rest).unwrap());
    assert!(is_believed(PATIENCE), "the probe itself works");
}
