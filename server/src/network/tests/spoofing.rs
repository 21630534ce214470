//! A guest that sends in another's name.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use super::lab::{Guest, Lab, PUBLIC, Place, config, ip};
use crate::network::{Network, Uplink, nft, rules};

/// Sends a datagram from `source` to the Internet; tells whether it arrives.
fn arrives(internet: &Place<'_>, guest: &Guest<'_>, source: Ipv4Addr, port: u16) -> bool {
    let receiver = internet.run(move || UdpSocket::bind((PUBLIC, port)).unwrap());
    receiver
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    guest.place.run(move || {
        let sender = UdpSocket::bind((source, 0)).unwrap();
        sender.send_to(b"hello", (PUBLIC, port)).unwrap();
    });
    receiver.recv(&mut [0; 16]).is_ok()
}

fn reverse_path_filter(lab: &Lab, network: &Network, guest: &Guest<'_>, value: &'static str) {
    let tap = guest.vm.tap();
    lab.inside(network).run(move || {
        for device in ["all", &tap] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), value).unwrap();
        }
    });
}

#[test]
fn each_of_two_guards_stops_a_false_sender() {
    let lab = Lab::new();
    let internet = lab.internet();
    let network = lab.open(config(Uplink::default()));
    let guest = lab.guest(&network, 1);
    let victim = lab.guest(&network, 2).address;
    guest
        .place
        .run(move || ip(&format!("address add {victim}/32 dev lo")));
    assert!(arrives(&internet, &guest, guest.address, 1000));
    assert!(!arrives(&internet, &guest, victim, 1001), "both guards");

    reverse_path_filter(&lab, &network, &guest, "0");
    assert!(!arrives(&internet, &guest, victim, 1002), "the rule alone");

    let rules = rules::namespace(true, &[]);
    let line = "iifname \"rd*\" fib saddr . iif oif missing drop";
    assert!(rules.contains(line));
    let lax = rules.replace(line, "");
    lab.inside(&network).run(move || nft::load(&lax).unwrap());
    assert!(arrives(&internet, &guest, victim, 1003), "neither guard");

    reverse_path_filter(&lab, &network, &guest, "1");
    assert!(
        !arrives(&internet, &guest, victim, 1004),
        "the kernel's own check alone"
    );
}

#[test]
fn an_isolated_wire_carries_nothing_out() {
    let lab = Lab::new();
    let internet = lab.internet();
    let network = lab.open(config(Uplink::default()));
    let guest = lab.guest(&network, 1);
    assert!(arrives(&internet, &guest, guest.address, 1000));

    // The same guest, with its wire as a template has it: a tap without address and route.
    let tap = guest.vm.tap();
    lab.inside(&network).run(move || {
        ip(&format!("address flush dev {tap}"));
        ip(&format!("route flush dev {tap}"));
    });
    guest
        .place
        .run(|| ip("neighbour replace 169.254.1.1 lladdr 52:54:00:00:00:01 dev eth0"));
    assert!(!arrives(&internet, &guest, guest.address, 1001));
}
