//! What the policies let through. Every test that finds something blocked goes on to take the guard away
//! and to see the same probe succeed.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use remote_docker_api::Egress;

use super::lab::{Guest, HOST, Lab, PRIVATE, PUBLIC, Place, config, greet, ip};
use super::policy::host_rules_with;
use crate::config::{AllowRule, NetworkConfig as File};
use crate::network::{GATEWAY, Network, NetworkConfig, Uplink, nft, rules};

/// Where most clouds tell their machines their secrets.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// A lab whose Internet also answers where clouds have their metadata, and everything on it at port 80.
fn internet(lab: &Lab) -> Place<'_> {
    let internet = lab.internet();
    ip(&format!("route add {METADATA}/32 via {PUBLIC}"));
    internet.run(|| drop(ip(&format!("address add {METADATA}/32 dev lo"))));
    internet.serve(80);
    internet
}

fn admit(lab: &Lab, network: &Network, guest: &Guest<'_>, egress: Egress) {
    lab.wait(network.wires.admit(guest.vm, egress)).unwrap();
}

fn allow(text: &str) -> Vec<AllowRule> {
    toml::from_str::<File>(text).unwrap().allow
}

#[test]
fn a_wire_reaches_what_its_policy_allows_and_a_new_one_nothing() {
    let lab = Lab::new();
    let _internet = internet(&lab);
    greet(80);
    let network = lab.open(config(Uplink::default()));
    let (one, other) = (lab.wire_guest(&network, 1), lab.guest(&network, 2));
    other.place.serve(80);
    // A new wire.
    assert!(one.place.is_kept_from(PUBLIC, 80));

    let everywhere = [PUBLIC, PRIVATE, METADATA, HOST, GATEWAY, other.address];
    let reached = |egress| {
        admit(&lab, &network, &one, egress);
        everywhere.map(|address| !one.place.is_kept_from(address, 80))
    };
    assert_eq!(
        reached(Egress::Internet),
        [true, false, false, false, false, false]
    );
    assert_eq!(
        reached(Egress::Open),
        [true, true, false, false, false, false]
    );
    assert_eq!(reached(Egress::None), [false; 6]);
    // The wire of another is what it was.
    assert!(other.place.reaches(PUBLIC, 80));
}

#[test]
fn open_reaches_the_metadata_of_a_cloud_only_without_both_guards() {
    let lab = Lab::new();
    let _internet = internet(&lab);
    let network = lab.open(config(Uplink::default()));
    let guest = lab.guest(&network, 1);
    admit(&lab, &network, &guest, Egress::Open);
    let inside = lab.inside(&network);
    let guard = "169.254.0.0/16, ";
    let load_inside = |rules: String| inside.run(move || nft::load(&rules).unwrap());
    let (rules, on_the_host) = (namespace(&[]), host_rules_with(&[]));
    assert!(rules.contains(guard) && on_the_host.contains(guard));

    load_inside(rules.replace(guard, ""));
    assert!(guest.place.is_kept_from(METADATA, 80), "the host's alone");
    nft::load(&on_the_host.replace(guard, "")).unwrap();
    assert!(guest.place.reaches(METADATA, 80), "the probe itself works");
    load_inside(rules);
    assert!(guest.place.is_kept_from(METADATA, 80), "the inner alone");
}

/// A packet by the second address is what the host takes for one of an open machine: nobody else gets it.
#[test]
fn the_host_keeps_the_rest_from_private_networks_by_itself() {
    let lab = Lab::new();
    let _internet = internet(&lab);
    let network = lab.open(config(Uplink::default()));
    let guest = lab.guest(&network, 1);
    let rules = namespace(&[]);
    let lax = rules.replace("10.0.0.0/8, ", "");
    assert_ne!(lax, rules);
    lab.inside(&network).run(move || nft::load(&lax).unwrap());
    assert!(guest.place.is_kept_from(PRIVATE, 80));
    admit(&lab, &network, &guest, Egress::Open);
    assert!(guest.place.reaches(PRIVATE, 80), "the probe itself works");
}

#[test]
fn what_the_site_allows_is_reached_under_internet_by_that_port_only() {
    let lab = Lab::new();
    let internet = internet(&lab);
    internet.serve(8080);
    internet.serve(8090);
    let allow = allow(&format!(
        "allow = [{{ cidr = \"{PRIVATE}/32\", ports = [8080, \"9000-9100\"], protocol = \"tcp\" }}]"
    ));
    let network = lab.open(NetworkConfig {
        allow,
        ..config(Uplink::default())
    });
    let guest = lab.guest(&network, 1);
    assert!(guest.place.reaches(PRIVATE, 8080));
    assert!(guest.place.is_kept_from(PRIVATE, 8090));
    admit(&lab, &network, &guest, Egress::None);
    assert!(guest.place.is_kept_from(PRIVATE, 8080));
    admit(&lab, &network, &guest, Egress::Open);
    assert!(guest.place.reaches(PRIVATE, 8090), "the probe itself works");
}

#[test]
fn opening_again_keeps_policies_and_streams() {
    let lab = Lab::new();
    let internet = internet(&lab);
    let network = lab.open(config(Uplink::default()));
    let (one, other) = (lab.guest(&network, 1), lab.guest(&network, 2));
    admit(&lab, &network, &other, Egress::None);
    let mut stream = Stream::open(&internet, &one);
    drop(network);

    let _again = lab.open(config(Uplink::default()));
    assert!(stream.carries());
    assert!(one.place.reaches(PUBLIC, 80));
    assert!(other.place.is_kept_from(PUBLIC, 80));
}

/// The kernel remembers connections by their addresses for days, and addresses are used again: the next
/// machine might go on with what the one before it was allowed.
#[test]
fn a_connection_that_stands_ends_with_the_policy() {
    let lab = Lab::new();
    let internet = internet(&lab);
    let network = lab.open(config(Uplink::default()));
    let guest = lab.guest(&network, 1);
    let mut stream = Stream::open(&internet, &guest);
    assert!(stream.carries());
    admit(&lab, &network, &guest, Egress::None);
    assert!(!stream.carries());
    // As rules would have it that ask for new connections only.
    let lax = namespace(&[]).replace(
        "iifname \"rd*\" oifname \"uplink\" iifgroup",
        "ct state established,related accept\n        iifname \"rd*\" oifname \"uplink\" iifgroup",
    );
    lab.inside(&network).run(move || nft::load(&lax).unwrap());
    assert!(stream.carries(), "the probe itself works");
}

fn namespace(allow: &[AllowRule]) -> String {
    rules::namespace(rules::Inside {
        uplink: true,
        allow,
        ..rules::Inside::default()
    })
}

/// A connection of a guest to the Internet.
struct Stream {
    near: TcpStream,
    far: TcpStream,
}

impl Stream {
    fn open(internet: &Place<'_>, guest: &Guest<'_>) -> Self {
        let listener = internet.run(|| TcpListener::bind((PUBLIC, 0)).unwrap());
        let to = listener.local_addr().unwrap();
        let near = guest.place.run(move || TcpStream::connect(to).unwrap());
        let far = listener.accept().unwrap().0;
        Self { near, far }
    }

    /// Whether a byte arrives; what is sent again in vain meanwhile may take its time.
    fn carries(&mut self) -> bool {
        let patience = Duration::from_secs(5);
        self.far.set_read_timeout(Some(patience)).unwrap();
        self.near.write_all(b"x").unwrap();
        self.far.read_exact(&mut [0]).is_ok()
    }
}
