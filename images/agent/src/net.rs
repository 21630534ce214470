//! The network card: one address, one gateway, no more. All guests see the same gateway on the link.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context, bail};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder, new_connection};

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
pub(crate) async fn loopback_up() -> anyhow::Result<()> {
    with_netlink(async |netlink| up(&netlink, LOOPBACK).await.context("cannot bring lo up")).await
}

/// Finds the network card and switches it on. It has no address yet, so nothing comes or goes; but
/// much happens in a kernel that switches a card on, and this way it does not happen in each clone.
///
/// # Errors
/// There is not exactly one, or the kernel's.
pub(crate) async fn card_up() -> anyhow::Result<Card> {
    let card = card(Path::new("/sys/class/net"))?;
    with_netlink(async |netlink| {
        up(&netlink, card.0)
            .await
            .context("cannot switch the network card on")
    })
    .await?;
    Ok(card)
}

/// Sets the largest packet that the network card takes, in bytes.
///
/// # Errors
/// The kernel's.
pub(crate) async fn set_mtu(Card(index): Card, mtu: u16) -> anyhow::Result<()> {
    with_netlink(async |netlink| {
        let link = LinkUnspec::new_with_index(index).mtu(mtu.into()).build();
        netlink
            .link()
            .set(link)
            .execute()
            .await
            .with_context(|| format!("cannot set the MTU {mtu}"))
    })
    .await
}

/// Gives the network card, which is on, its address, its routes and its neighbour, and tells which address it has then.
///
/// # Errors
/// The first step that failed.
pub(crate) async fn configure(
    Card(index): Card,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
    gateway_mac: [u8; 6],
) -> anyhow::Result<Ipv4Addr> {
    with_netlink(async |netlink| {
        netlink
            .address()
            .add(index, IpAddr::V4(address), HOST_PREFIX)
            .replace()
            .execute()
            .await
            .with_context(|| format!("cannot set the address {address}"))?;
        for (route, what) in routes(index, gateway) {
            netlink
                .route()
                .add(route)
                .replace()
                .execute()
                .await
                .with_context(|| format!("cannot set the route to {what}"))?;
        }
        // For good: the gateway's address is the same for all guests and never moves, and a
        // neighbour that must be asked for again costs the first packet after a pause a round trip.
        netlink
            .neighbours()
            .add(index, IpAddr::V4(gateway))
            .link_layer_address(&gateway_mac)
            .state(NeighbourState::Permanent)
            .replace()
            .execute()
            .await
            .context("cannot enter the gateway as a neighbour")?;
        address_of(&netlink, index).await
    })
    .await
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

async fn up(netlink: &Handle, index: u32) -> Result<(), rtnetlink::Error> {
    netlink
        .link()
        .set(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await
}

/// The first IPv4 address of a link, as the kernel lists it.
async fn address_of(netlink: &Handle, index: u32) -> anyhow::Result<Ipv4Addr> {
    let mut addresses = netlink
        .address()
        .get()
        .set_link_index_filter(index)
        .execute();
    while let Some(message) = addresses
        .try_next()
        .await
        .context("cannot list addresses")?
    {
        for attribute in &message.attributes {
            if let AddressAttribute::Local(IpAddr::V4(address)) = attribute {
                return Ok(*address);
            }
        }
    }
    bail!("the network card has no address")
}

async fn with_netlink<T>(work: impl AsyncFnOnce(Handle) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let (connection, handle, _) = new_connection().context("cannot open netlink")?;
    let pump = tokio::spawn(connection);
    let outcome = work(handle).await;
    pump.abort();
    outcome
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
}
