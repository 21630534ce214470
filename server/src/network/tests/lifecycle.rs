//! Making, repairing and removing.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::Path;

use super::lab::{INSTALL, Lab, PUBLIC, config, ip, nft_tables};
use crate::ids::{InstallId, VmId};
use crate::network::{Network, NetworkConfig, NetworkError, Uplink};

const VM: VmId = VmId::from_bits(1);
const OTHER: VmId = VmId::from_bits(2);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);

fn namespace_file() -> String {
    format!("/run/netns/{}", INSTALL.namespace())
}

#[test]
fn wires_come_and_go_however_often_they_are_told_to() {
    let lab = Lab::new();
    let network = lab.open(config(Uplink::None));
    let wires = &network.wires;
    for _ in 0..2 {
        lab.wait(wires.attach(VM, ADDRESS)).unwrap();
        lab.wait(wires.attach_isolated(OTHER)).unwrap();
        assert_eq!(lab.wait(wires.list()).unwrap(), BTreeSet::from([VM, OTHER]));
    }
    let inside = lab.inside(&network);
    let routes = inside.run(|| ip("route show"));
    assert!(
        routes.contains(&format!("{ADDRESS} dev {} ", VM.tap())),
        "{routes}"
    );
    let neighbours = inside.run(|| ip("neighbour show"));
    assert!(
        neighbours.contains("10.213.0.1 dev rd0000000000001 lladdr 52:54:00:00:00:02 PERMANENT"),
        "{neighbours}"
    );
    let isolated = inside.run(|| ip(&format!("address show dev {}", OTHER.tap())));
    assert!(!isolated.contains("inet"), "{isolated}");
    for _ in 0..2 {
        lab.wait(wires.detach(VM)).unwrap();
        lab.wait(wires.detach(OTHER)).unwrap();
        assert!(lab.wait(wires.list()).unwrap().is_empty());
    }
    let routes = inside.run(|| ip("route show"));
    assert_eq!(routes.trim(), "unreachable 10.213.0.0/16 proto static");
}

#[test]
fn an_opening_that_fails_leaves_nothing() {
    let lab = Lab::new();
    let _internet = lab.internet();
    for last in 0..=255 {
        ip(&format!("address add 169.254.240.{last}/32 dev lo"));
    }
    let devices = || ip("-o -br link show");
    let before = devices();
    let error = lab.wait(Network::open(config(Uplink::default())));
    assert!(
        matches!(error, Err(NetworkError::UplinkRangeUsedUp { .. })),
        "{error:?}"
    );
    assert_eq!(devices(), before);
    assert!(!Path::new(&namespace_file()).exists());
    assert_eq!(nft_tables(), "");
}

#[test]
fn a_half_made_wire_is_finished() {
    let lab = Lab::new();
    let network = lab.open(config(Uplink::None));
    lab.wait(network.wires.attach_isolated(VM)).unwrap();
    lab.wait(network.wires.attach(VM, ADDRESS)).unwrap();
    let routes = lab.inside(&network).run(|| ip("route show"));
    assert!(routes.contains(&ADDRESS.to_string()), "{routes}");
}

#[test]
fn an_address_does_not_move_to_another_vm() {
    let lab = Lab::new();
    let network = lab.open(config(Uplink::None));
    lab.wait(network.wires.attach(VM, ADDRESS)).unwrap();
    let error = lab.wait(network.wires.attach(OTHER, ADDRESS)).unwrap_err();
    assert!(
        matches!(error, NetworkError::AddressTaken { .. }),
        "{error}"
    );
    lab.wait(network.wires.detach(VM)).unwrap();
    lab.wait(network.wires.attach(OTHER, ADDRESS)).unwrap();
}

#[test]
fn opening_repairs_what_a_crash_left() {
    let lab = Lab::new();
    // A name without a namespace, and an uplink to nowhere.
    fs::create_dir_all("/run/netns").unwrap();
    File::create(namespace_file()).unwrap();
    let internet = lab.internet();
    internet.serve(80);
    ip(&format!(
        "link add {} type veth peer name stray",
        INSTALL.uplink()
    ));
    let network = lab.open(config(Uplink::default()));
    assert!(!ip("-o link show").contains("stray"));
    assert!(lab.guest(&network, 1).place.reaches(PUBLIC, 80));
}

#[test]
fn opening_again_finds_the_wires_and_keeps_the_uplink() {
    let lab = Lab::new();
    let internet = lab.internet();
    internet.serve(80);
    let first = lab.open(config(Uplink::default()));
    let guest = lab.guest(&first, 1);
    let before = ip(&format!("-o address show dev {}", INSTALL.uplink()));
    drop(first);

    let second = lab.open(config(Uplink::default()));
    let after = ip(&format!("-o address show dev {}", INSTALL.uplink()));
    assert_eq!(before, after);
    assert_eq!(
        lab.wait(second.wires.list()).unwrap(),
        BTreeSet::from([guest.vm])
    );
    assert!(guest.place.reaches(PUBLIC, 80));
}

#[test]
fn closing_leaves_nothing_once_the_wires_are_gone() {
    let lab = Lab::new();
    let network = lab.open(config(Uplink::default()));
    lab.wait(network.wires.attach(VM, ADDRESS)).unwrap();
    assert!(!lab.wait(network.close_if_empty()).unwrap());
    assert!(Path::new(&namespace_file()).exists());
    assert!(nft_tables().contains("remote_dockerd"));
    assert!(ip("-o link show").contains(&INSTALL.uplink()));

    lab.wait(network.wires.detach(VM)).unwrap();
    for _ in 0..2 {
        assert!(lab.wait(network.close_if_empty()).unwrap());
        assert!(!Path::new(&namespace_file()).exists());
        assert_eq!(nft_tables(), "");
        assert!(!ip("-o link show").contains(&INSTALL.uplink()));
    }
}

/// The first use of `ip netns` after a boot, by whoever it is, mounts the folder of names over itself.
#[test]
fn closing_leaves_nothing_when_others_make_namespaces_meanwhile() {
    let lab = Lab::new();
    let network = lab.open(config(Uplink::None));
    ip("netns add others");
    assert!(lab.wait(network.close_if_empty()).unwrap());
    assert!(!Path::new(&namespace_file()).exists());
    ip("netns delete others");
}

#[test]
fn two_installations_share_a_host() {
    let lab = Lab::new();
    let internet = lab.internet();
    internet.serve(80);
    // Ids that want the same pair of addresses.
    let one = lab.open(config(Uplink::default()));
    let two = lab.open(NetworkConfig {
        install: InstallId::from_bits(INSTALL.bits() + 128),
        ..config(Uplink::default())
    });
    for network in [&one, &two] {
        assert!(lab.guest(network, 1).place.reaches(PUBLIC, 80));
    }
    lab.wait(two.wires.detach(VM)).unwrap();
    assert!(lab.wait(two.close_if_empty()).unwrap());
    assert!(lab.guest(&one, 2).place.reaches(PUBLIC, 80));
}
