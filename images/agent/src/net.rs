//! The network card: one address, one gateway, no more. All guests see the same gateway on the link.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context, bail};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{AddressMessageBuilder, LinkUnspec, RouteMessageBuilder};

use crate::netlink::{self, Change};

/// The index that the kernel gives `lo` in every network namespace.
const LOOPBACK: u32 = 1;
const HOST_PREFIX: u8 = 32;

/// The network card, as the kernel numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Card(u32);

/// Makes 127.0.0.1 work.
///
/// # Errors
/// The kernel's.
pub(crate) fn loopback_up() -> anyhow::Result<()> {
    netlink::apply(vec![up("bring lo up", LOOPBACK)])
}

/// Finds the network card and switches it on. It has no address yet, so nothing comes or goes; but
/// much happens in a kernel that switches a card on, and this way it does not happen in each clone.
///
/// # Errors
/// There is not exactly one, or the kernel's.
pub(crate) fn card_up() -> anyhow::Result<Card> {
    let card = card(Path::new("/sys/class/net"))?;
    netlink::apply(vec![up("switch the network card on", card.0)])?;
    Ok(card)
}

/// Sets the largest packet that the network card takes, in bytes.
///
/// # Errors
/// The kernel's.
pub(crate) fn set_mtu(Card(index): Card, mtu: u16) -> anyhow::Result<()> {
    let link = LinkUnspec::new_with_index(index).mtu(mtu.into()).build();
    netlink::apply(vec![Change {
        what: format!("set the MTU {mtu}"),
        message: RouteNetlinkMessage::SetLink(link),
    }])
}

/// Gives the network card, which is on, its address, its routes and its neighbour, and tells which address it has then.
///
/// # Errors
/// The first step that failed.
pub(crate) fn configure(
    Card(index): Card,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
    gateway_mac: [u8; 6],
) -> anyhow::Result<Ipv4Addr> {
    let own = AddressMessageBuilder::<Ipv4Addr>::new()
        .index(index)
        .address(address, HOST_PREFIX);
    let own = Change {
        what: format!("set the address {address}"),
        message: RouteNetlinkMessage::NewAddress(own.build()),
    };
    let routes = routes(index, gateway).map(|(route, what)| Change {
        what: format!("set the route to {what}"),
        message: RouteNetlinkMessage::NewRoute(route),
    });
    let neighbour = Change {
        what: "enter the gateway as a neighbour".to_owned(),
        message: RouteNetlinkMessage::NewNeighbour(neighbour(index, gateway, gateway_mac)),
    };
    let mut changes = vec![own];
    changes.extend(routes);
    changes.push(neighbour);
    netlink::apply(changes)?;
    address_of(index)
}

/// The gateway is a neighbour although its address is in no common subnet; all else goes through it.
fn routes(index: u32, gateway: Ipv4Addr) -> [(RouteMessage, &'static str); 2] {
    let to_gateway = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(gateway, HOST_PREFIX)
        .output_interface(index)
        .scope(RouteScope::Link)
        .build();
    let default = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(gateway)
        .output_interface(index)
        .build();
    [(to_gateway, "the gateway"), (default, "all else")]
}

/// For good: the gateway's address is the same for all guests and never moves, and a neighbour that must be asked for
/// again costs the first packet after a pause a round trip.
fn neighbour(index: u32, address: Ipv4Addr, mac: [u8; 6]) -> NeighbourMessage {
    let mut neighbour = NeighbourMessage::default();
    neighbour.header.family = AddressFamily::Inet;
    neighbour.header.ifindex = index;
    neighbour.header.state = NeighbourState::Permanent;
    neighbour.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
        NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
    ];
    neighbour
}

fn up(what: &str, index: u32) -> Change {
    Change {
        what: what.to_owned(),
        message: RouteNetlinkMessage::SetLink(LinkUnspec::new_with_index(index).up().build()),
    }
}

/// The first IPv4 address of a link, as the kernel lists it.
fn address_of(index: u32) -> anyhow::Result<Ipv4Addr> {
    let addresses = netlink::addresses()?;
    let of_link = addresses.iter().filter(|it| it.header.index == index);
    of_link
        .flat_map(|address| &address.attributes)
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        })
        .context("the network card has no address")
}

/// The one network card. Docker's bridges and containers' links are no devices.
fn card(interfaces: &Path) -> anyhow::Result<Card> {
    let mut cards = Vec::new();
    for entry in std::fs::read_dir(interfaces).context("cannot list network interfaces")? {
        let path = entry?.path();
        if path.join("device").exists() {
            cards.push(path);
        }
    }
    let [card] = cards.as_slice() else {
        bail!(
            "the machine must have one network card and has {}: {cards:?}",
            cards.len()
        );
    };
    let index = card.join("ifindex");
    let text = std::fs::read_to_string(&index).with_context(|| format!("cannot read {index:?}"))?;
    text.trim()
        .parse()
        .map(Card)
        .with_context(|| format!("{index:?} is no number"))
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, write};

    use nix::sched::{CloneFlags, unshare};
    use rtnetlink::LinkVeth;

    use super::*;

    #[test]
    fn the_card_is_told_from_bridges_and_must_be_the_only_one() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, index: u32, device: bool| {
            let path = folder.path().join(name);
            create_dir_all(if device {
                path.join("device")
            } else {
                path.clone()
            })
            .unwrap();
            write(path.join("ifindex"), format!("{index}\n")).unwrap();
        };
        make("lo", 1, false);
        make("docker0", 3, false);
        assert!(card(folder.path()).is_err());
        make("eth0", 2, true);
        assert_eq!(card(folder.path()).unwrap(), Card(2));
        make("eth1", 4, true);
        assert!(card(folder.path()).is_err());
    }

    /// One that is off.
    fn a_card() -> Card {
        let card = LinkVeth::new("card0", "card1").build();
        netlink::apply(vec![Change {
            what: "make a card".to_owned(),
            message: RouteNetlinkMessage::NewLink(card),
        }])
        .unwrap();
        Card(nix::net::if_::if_nametoindex("card0").unwrap())
    }

    /// What `work` answers in a network of its own, in which there is `lo` only.
    fn alone<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (takes root)");
                work()
            });
            thread.join().unwrap()
        })
    }

    #[test]
    fn the_card_gets_all_that_it_needs_and_again_if_it_is_asked_again() {
        let (address, gateway) = (Ipv4Addr::new(198, 18, 0, 9), Ipv4Addr::new(169, 254, 1, 1));
        let (given, kernels) = alone(|| {
            loopback_up().unwrap();
            let card = a_card();
            set_mtu(card, 1400).unwrap();
            netlink::apply(vec![up("switch it on", card.0)]).unwrap();
            for _ in 0..2 {
                assert_eq!(configure(card, address, gateway, [2; 6]).unwrap(), address);
            }
            let other = Ipv4Addr::new(198, 18, 0, 10);
            let given = configure(card, other, gateway, [2; 6]).unwrap();
            let kernels = ["route", "arp"].map(|table| {
                std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap()
            });
            (given, kernels)
        });
        // The kernel lists the one first that was there first.
        assert_eq!(given, address);
        let [routes, neighbours] = kernels;
        let lines: Vec<Vec<&str>> = routes
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().take(3).collect())
            .collect();
        assert!(
            lines.contains(&vec!["card0", "00000000", "0101FEA9"]),
            "{routes}"
        );
        assert!(
            lines.contains(&vec!["card0", "0101FEA9", "00000000"]),
            "{routes}"
        );
        assert!(neighbours.contains("169.254.1.1"), "{neighbours}");
    }

    #[test]
    fn what_fails_is_named() {
        let (address, gateway) = (Ipv4Addr::new(198, 18, 0, 9), Ipv4Addr::new(169, 254, 1, 1));
        let error = alone(|| {
            // A card that is off takes an address and no route.
            configure(a_card(), address, gateway, [2; 6]).unwrap_err()
        });
        let words = format!("{error:#}");
        assert!(
            words.starts_with("cannot set the route to the gateway: "),
            "{words}"
        );
        let error = alone(|| configure(Card(77), address, gateway, [2; 6]).unwrap_err());
        assert!(
            format!("{error:#}").starts_with("cannot set the address"),
            "{error:#}"
        );
    }
}
