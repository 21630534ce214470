//! Devices, addresses, routes and neighbours: the kernel's configuration interface in this room's
//! words. Each function may be called again; what is already there is left as it is.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAttribute, RouteScope, RouteType};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use super::NetworkError;

/// Index of the device of this name.
pub(super) async fn index(handle: &Handle, name: &str) -> Result<Option<u32>, NetworkError> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(error) if is(&error, Errno::ENODEV) => Ok(None),
        Err(error) => Err(NetworkError::netlink(format!("look for device {name}"))(
            error,
        )),
    }
}

/// Index of a device that has to be there.
pub(super) async fn existing(handle: &Handle, name: &str) -> Result<u32, NetworkError> {
    index(handle, name)
        .await?
        .ok_or_else(|| NetworkError::system(format!("find device {name}"))(Errno::ENODEV))
}

/// Names of all devices.
pub(super) async fn names(handle: &Handle) -> Result<BTreeSet<String>, NetworkError> {
    let links: Vec<_> = handle
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(NetworkError::netlink("list network devices"))?;
    let attributes = links.into_iter().flat_map(|link| link.attributes);
    Ok(attributes
        .filter_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })
        .collect())
}

/// Switches a device on, after giving it a hardware address if one is told.
pub(super) async fn up(
    handle: &Handle,
    index: u32,
    mac: Option<[u8; 6]>,
) -> Result<(), NetworkError> {
    let mut message = LinkUnspec::new_with_index(index).up();
    if let Some(mac) = mac {
        message = message.address(mac.to_vec());
    }
    handle
        .link()
        .set(message.build())
        .execute()
        .await
        .map_err(NetworkError::netlink(format!("switch on device {index}")))
}

/// Puts a device into a group, which rules of the packet filter can be about.
pub(super) async fn set_group(handle: &Handle, index: u32, group: u32) -> Result<(), NetworkError> {
    let message = LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::Group(group))
        .build();
    let set = handle.link().set(message).execute().await;
    set.map_err(NetworkError::netlink(format!(
        "put device {index} into group {group}"
    )))
}

/// Removes a device; for a veth its other end goes too.
pub(super) async fn delete(handle: &Handle, name: &str) -> Result<(), NetworkError> {
    let Some(index) = index(handle, name).await? else {
        return Ok(());
    };
    match handle.link().del(index).execute().await {
        Err(error) if !is(&error, Errno::ENODEV) => Err(NetworkError::netlink(format!(
            "remove device {name}"
        ))(error)),
        _ => Ok(()),
    }
}

/// Gives a device an address.
pub(super) async fn add_address(
    handle: &Handle,
    index: u32,
    address: Ipv4Addr,
    prefix: u8,
    scope: rtnetlink::packet_route::address::AddressScope,
) -> Result<(), NetworkError> {
    let mut request = handle.address().add(index, IpAddr::V4(address), prefix);
    let message = request.message_mut();
    message.header.scope = scope;
    // The library adds a broadcast address, which neither a /32 nor a /31 has.
    message
        .attributes
        .retain(|attribute| !matches!(attribute, AddressAttribute::Broadcast(_)));
    unless_there(request.execute().await, || {
        format!("give address {address} to device {index}")
    })
}

/// All IPv4 addresses of this namespace, with the index of the device that has each.
pub(super) async fn addresses(handle: &Handle) -> Result<Vec<(u32, Ipv4Addr)>, NetworkError> {
    let all: Vec<_> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(NetworkError::netlink("list addresses"))?;
    let local = |message: &rtnetlink::packet_route::address::AddressMessage| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                _ => None,
            })
    };
    Ok(all
        .iter()
        .filter_map(|message| Some((message.header.index, local(message)?)))
        .collect())
}

/// Leads one address to a device, with `source` as the sender of what this host sends there.
///
/// # Errors
/// [`NetworkError::AddressTaken`] when it leads to another one already.
pub(super) async fn route_to(
    handle: &Handle,
    (index, name): (u32, &str),
    address: Ipv4Addr,
    source: Ipv4Addr,
) -> Result<(), NetworkError> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(address, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .pref_source(source)
        .build();
    let added = handle.route().add(route).execute().await;
    let taken = matches!(&added, Err(error) if is(error, Errno::EEXIST));
    unless_there(added, || format!("lead {address} to {name}"))?;
    if taken && device_towards(handle, address).await? != Some(index) {
        return Err(NetworkError::AddressTaken {
            address,
            wire: name.to_owned(),
        });
    }
    Ok(())
}

/// Answers at once that an address of this network cannot be reached, unless a longer route leads to
/// it.
pub(super) async fn unreachable(
    handle: &Handle,
    network: Ipv4Addr,
    prefix: u8,
) -> Result<(), NetworkError> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(network, prefix)
        .kind(RouteType::Unreachable)
        .build();
    unless_there(handle.route().add(route).execute().await, || {
        format!("make {network}/{prefix} unreachable")
    })
}

/// Sends what has no other route to `gateway`.
pub(super) async fn default_route(
    handle: &Handle,
    index: u32,
    gateway: Ipv4Addr,
) -> Result<(), NetworkError> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(gateway)
        .output_interface(index)
        .build();
    let replaced = handle.route().add(route).replace().execute().await;
    replaced.map_err(NetworkError::netlink(format!(
        "set the default route to {gateway}"
    )))
}

/// Sends what is for `address` to `gateway`, which is on the wire of this device.
pub(super) async fn route_by(
    handle: &Handle,
    index: u32,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
) -> Result<(), NetworkError> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(address, 32)
        .gateway(gateway)
        .output_interface(index)
        .build();
    let replaced = handle.route().add(route).replace().execute().await;
    replaced.map_err(NetworkError::netlink(format!(
        "lead {address} to {gateway}"
    )))
}

/// Tells the hardware address behind an address for good, so that nobody has to ask for it.
pub(super) async fn neighbour(
    handle: &Handle,
    index: u32,
    address: Ipv4Addr,
    mac: [u8; 6],
) -> Result<(), NetworkError> {
    let request = handle.neighbours().add(index, IpAddr::V4(address));
    let request = request.link_layer_address(&mac).replace();
    request
        .execute()
        .await
        .map_err(NetworkError::netlink(format!(
            "enter the neighbour {address}"
        )))
}

async fn device_towards(handle: &Handle, address: Ipv4Addr) -> Result<Option<u32>, NetworkError> {
    let question = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(address, 32)
        .build();
    let mut answers = handle.route().get(question).execute();
    let answer = answers
        .try_next()
        .await
        .map_err(NetworkError::netlink(format!(
            "ask for the route to {address}"
        )))?;
    let attributes = answer.into_iter().flat_map(|route| route.attributes);
    Ok(attributes
        .filter_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(index),
            _ => None,
        })
        .next())
}

fn unless_there(
    result: Result<(), rtnetlink::Error>,
    doing: impl FnOnce() -> String,
) -> Result<(), NetworkError> {
    match result {
        Err(error) if !is(&error, Errno::EEXIST) => Err(NetworkError::netlink(doing())(error)),
        _ => Ok(()),
    }
}

fn is(error: &rtnetlink::Error, errno: Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.raw_code() == -(errno as i32))
}
