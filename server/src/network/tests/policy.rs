//! Who reaches whom. Every test that finds something blocked goes on to take the guard away and to
//! see the same probe succeed.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::lab::{HOST, Lab, PRIVATE, PUBLIC, config, greet};
use crate::config::AllowRule;
use crate::network::{Dial, DirectDialer, GATEWAY, Network, NetworkConfig, Uplink, nft, rules};

/// The host's table of the lab's installation.
const HOST_TABLE: &str = "remote_dockerd_ru0000000000007";

/// What `Network::open` loads in the host, when there are no resolvers: the seventh installation gets
/// the seventh pair of addresses.
fn host_rules() -> String {
    host_rules_with(&[])
}

/// The same with what a site allows.
pub(super) fn host_rules_with(allow: &[AllowRule]) -> String {
    let inner = Ipv4Addr::new(169, 254, 240, 15);
    rules::host(rules::Host {
        table: HOST_TABLE,
        device: "ru0000000000007",
        inner,
        open: Ipv4Addr::new(169, 254, 241, 15),
        resolvers: &[],
        allow,
        on_host: &[],
    })
}

/// What it loads in the VMs' namespace.
fn with_uplink() -> rules::Inside<'static> {
    rules::Inside {
        uplink: true,
        ..rules::Inside::default()
    }
}

fn without_filter(lab: &Lab, network: &Network) {
    let inside = lab.inside(network);
    inside.run(|| nft::load(&rules::without(rules::TABLE)).unwrap());
}

#[test]
fn the_server_reaches_a_guest_by_the_dialer_only() {
    let lab = Lab::new();
    let network = lab.open(config(Uplink::None));
    let guest = lab.guest(&network, 1);
    guest.place.serve(2376);
    let to = SocketAddrV4::new(guest.address, 2376);

    let mut greeting = [0; 5];
    lab.wait(async {
        let mut stream = network.dialer.dial(to).await.unwrap();
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut greeting)
            .await
            .unwrap();
    });
    assert_eq!(&greeting, b"hello");
    // The host itself has no way there: this test would see it if the dialer did nothing special.
    let direct = lab.wait(DirectDialer.dial(to)).unwrap_err();
    assert_eq!(direct.kind(), ErrorKind::NetworkUnreachable);

    let refused = lab.wait(network.dialer.dial(SocketAddrV4::new(guest.address, 1)));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_guest_that_is_gone_is_not_looked_for_on_the_uplink() {
    let lab = Lab::new();
    let _internet = lab.internet();
    let network = lab.open(config(Uplink::default()));
    let to = SocketAddrV4::new(Ipv4Addr::new(10, 213, 0, 9), 2376);
    let error = lab.wait(network.dialer.dial(to)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HostUnreachable);
}

#[test]
fn a_guest_does_not_reach_another() {
    let lab = Lab::new();
    let network = lab.open(config(Uplink::None));
    let one = lab.guest(&network, 1);
    let two = lab.guest(&network, 2);
    two.place.serve(80);
    assert!(one.place.is_kept_from(two.address, 80));

    without_filter(&lab, &network);
    assert!(one.place.reaches(two.address, 80), "the probe itself works");
}

#[test]
fn a_guest_reaches_nothing_in_the_namespace() {
    let lab = Lab::new();
    let network = lab.open(config(Uplink::None));
    let guest = lab.guest(&network, 1);
    lab.inside(&network).serve(80);
    assert!(guest.place.is_kept_from(GATEWAY, 80));

    without_filter(&lab, &network);
    assert!(guest.place.reaches(GATEWAY, 80), "the probe itself works");
}

#[test]
fn a_guest_reaches_public_addresses_and_no_private_ones() {
    let lab = Lab::new();
    let internet = lab.internet();
    internet.serve(80);
    let network = lab.open(config(Uplink::default()));
    let guest = lab.guest(&network, 1);
    assert!(guest.place.reaches(PUBLIC, 80));
    assert!(guest.place.is_kept_from(PRIVATE, 80));

    let lax = rules::namespace(with_uplink()).replace("10.0.0.0/8, ", "");
    lab.inside(&network).run(move || nft::load(&lax).unwrap());
    // The host has the same guard once more.
    assert!(guest.place.is_kept_from(PRIVATE, 80));
    nft::load(&host_rules().replace("10.0.0.0/8, ", "")).unwrap();
    assert!(guest.place.reaches(PRIVATE, 80), "the probe itself works");
}

#[test]
fn a_private_resolver_is_reached_at_its_port_only() {
    let lab = Lab::new();
    let internet = lab.internet();
    internet.serve(53);
    internet.serve(80);
    let network = lab.open(NetworkConfig {
        resolvers: vec![PRIVATE],
        ..config(Uplink::default())
    });
    let guest = lab.guest(&network, 1);
    assert!(guest.place.reaches(PRIVATE, 53));
    assert!(guest.place.is_kept_from(PRIVATE, 80));
}

#[test]
fn a_guest_does_not_reach_the_host_even_at_its_public_address() {
    let lab = Lab::new();
    let _internet = lab.internet();
    greet(53);
    greet(80);
    let with_resolver = |resolvers| NetworkConfig {
        resolvers,
        ..config(Uplink::default())
    };
    let network = lab.open(with_resolver(vec![]));
    let guest = lab.guest(&network, 1);
    assert!(guest.place.is_kept_from(HOST, 80));
    assert!(guest.place.is_kept_from(HOST, 53));

    // Opened again for a host that runs its own name server.
    let _again = lab.open(with_resolver(vec![HOST]));
    assert!(guest.place.reaches(HOST, 53));
    assert!(guest.place.is_kept_from(HOST, 80));

    nft::load(&rules::without(HOST_TABLE)).unwrap();
    assert!(guest.place.reaches(HOST, 80), "the probe itself works");
}

/// As Docker publishes a container's port on all of its host's addresses.
const FORWARDED: &str = "table ip forwarded {
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local tcp dport { 53, 80 } dnat to 10.99.0.1
        fib daddr type local tcp dport 81 dnat to 8.8.8.8:80
    }
}";

#[test]
fn a_guest_does_not_reach_what_the_host_forwards_to() {
    let lab = Lab::new();
    let internet = lab.internet();
    internet.serve(53);
    internet.serve(80);
    nft::load(FORWARDED).unwrap();
    let network = lab.open(config(Uplink::default()));
    let guest = lab.guest(&network, 1);
    assert!(guest.place.is_kept_from(HOST, 80));
    // Wherever it leads: the host's forwards are for those whom it serves.
    assert!(guest.place.is_kept_from(HOST, 81));
    assert!(guest.place.reaches(PUBLIC, 80));

    // Either address is good for a name server that stands behind such a forward.
    let _again = lab.open(NetworkConfig {
        resolvers: vec![HOST, PRIVATE],
        ..config(Uplink::default())
    });
    assert!(guest.place.reaches(HOST, 53));
    assert!(guest.place.reaches(PRIVATE, 53));
    assert!(guest.place.is_kept_from(HOST, 80));

    let load_without = |guards: &[&str]| {
        let mut rules = host_rules();
        for guard in guards {
            assert!(rules.contains(guard), "{rules}");
            let rest: Vec<_> = rules.lines().filter(|l| !l.contains(guard)).collect();
            rules = rest.join("\n");
        }
        nft::load(&rules).unwrap();
    };
    // Each of the two guards is enough for a private address; only one sees the public one.
    let (by_address, by_status) = ("ip daddr {", "ct status dnat");
    load_without(&[by_address]);
    assert!(guest.place.is_kept_from(HOST, 80));
    load_without(&[by_status]);
    assert!(guest.place.is_kept_from(HOST, 80));
    assert!(guest.place.reaches(HOST, 81), "the probe itself works");
    load_without(&[by_address, by_status]);
    assert!(guest.place.reaches(HOST, 80), "the probe itself works");
}

#[test]
fn without_an_uplink_a_guest_reaches_nobody() {
    let lab = Lab::new();
    let internet = lab.internet();
    internet.serve(80);
    let network = lab.open(config(Uplink::default()));
    let guest = lab.guest(&network, 1);
    assert!(guest.place.reaches(PUBLIC, 80), "the probe itself works");

    let _again = lab.open(config(Uplink::None));
    let unreachable = guest.place.run(|| {
        let to = SocketAddrV4::new(PUBLIC, 80).into();
        std::net::TcpStream::connect_timeout(&to, std::time::Duration::from_secs(2))
    });
    let kind = unreachable.unwrap_err().kind();
    assert!(
        matches!(kind, ErrorKind::NetworkUnreachable | ErrorKind::TimedOut),
        "{kind:?}"
    );
}
