//! A guest that sends in another's name.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use super::lab::{Guest, Lab, PUBLIC, Place, config, ip};
use crate::network::{Network, Uplink, nft, rules};

/// Whether datagrams from `source` arrive on the Internet. The wait is long for those that should.
fn arrives(internet: &Place<'_>, guest: &Guest<'_>, source: Ipv4Addr) -> bool {
    exchange(internet, guest, source, Duration::from_secs(20))
}

/// Whether none of several datagrams from `source` arrives.
fn is_stopped(internet: &Place<'_>, guest: &Guest<'_>, source: Ipv4Addr) -> bool {
    !exchange(internet, guest, source, Duration::from_millis(500))
}

fn exchange(internet: &Place<'_>, guest: &Guest<'_>, source: Ipv4Addr, patience: Duration) -> bool {
    let receiver = internet.run(|| UdpSocket::bind((PUBLIC, 0)).unwrap());
    let pause = Duration::from_millis(50);
    receiver.set_read_timeout(Some(pause)).unwrap();
    let to = receiver.local_addr().unwrap();
    let sender = guest
        .place
        .run(move || UdpSocket::bind((source, 0)).unwrap());
    let start = Instant::now();
    while start.elapsed() < patience {
        sender.send_to(b"hello", to).unwrap();
        if receiver.recv(&mut [0; 16]).is_ok() {
            return true;
        }
    }
    false
}

fn switch_reverse_path_filter_off(lab: &Lab, network: &Network, guest: &Guest<'_>) {
    let tap = guest.vm.tap();
    lab.inside(network).run(move || {
        for device in ["all", &tap] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), "0").unwrap();
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
    let inside = lab.inside(&network);
    let load = |rules: String| inside.run(move || nft::load(&rules).unwrap());
    let rules = rules::namespace(rules::Inside {
        uplink: true,
        ..rules::Inside::default()
    });
    let line = "iifname \"rd*\" fib saddr . iif oif missing drop";
    assert!(rules.contains(line));

    assert!(arrives(&internet, &guest, guest.address));
    assert!(is_stopped(&internet, &guest, victim), "both guards");
    load(rules.replace(line, ""));
    assert!(
        is_stopped(&internet, &guest, victim),
        "the kernel's check alone"
    );
    switch_reverse_path_filter_off(&lab, &network, &guest);
    assert!(arrives(&internet, &guest, victim), "neither guard");
    load(rules);
    assert!(is_stopped(&internet, &guest, victim), "the rule alone");
}

#[test]
fn an_isolated_wire_carries_nothing_out() {
    let lab = Lab::new();
    let internet = lab.internet();
    let network = lab.open(config(Uplink::default()));
    let guest = lab.guest(&network, 1);
    assert!(arrives(&internet, &guest, guest.address));

    // The same guest, with its wire as a template has it: a tap without address and route.
    let tap = guest.vm.tap();
    lab.inside(&network).run(move || {
        ip(&format!("address flush dev {tap}"));
        ip(&format!("route flush dev {tap}"));
    });
    guest
        .place
        .run(|| ip("neighbour replace 169.254.1.1 lladdr 52:54:00:00:00:01 dev eth0"));
    assert!(is_stopped(&internet, &guest, guest.address));
}
