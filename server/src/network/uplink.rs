//! The way out for guests: a veth pair between the host's namespace and the VMs'.
//!
//! The VMs' namespace hides all guests behind its end of the pair, those that may reach private networks behind
//! a second address of it, by which the host tells them apart; and the host hides both behind its own address. So the host needs no route to guests, the guests' network may be one that the host's
//! own network has too, and several servers share a host.
//!
//! Known limit: another filter on the host that drops what it does not know, such as the FORWARD chain
//! of a Docker daemon on this host, also drops guests' traffic; no rule of ours can overrule it.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};

use nix::fcntl::Flock;
use rtnetlink::packet_route::address::AddressScope;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::worker::Worker;
use super::{Namespace, NetworkConfig, NetworkError, links, namespace, nft, rules, sysctl};
use crate::ids::InstallId;

/// How many pairs of addresses are in a range, which is a /24.
const PAIRS: u32 = 128;

/// The two ends' addresses, a /31.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    host: Ipv4Addr,
    inner: Ipv4Addr,
}

impl Pair {
    fn at(range: Ipv4Addr, number: u32) -> Self {
        let first = u32::from(range).wrapping_add(number * 2);
        Self {
            host: first.into(),
            inner: first.wrapping_add(1).into(),
        }
    }

    /// The second address of the inner end: its counterpart in the /24 that follows the range.
    fn open(self) -> Ipv4Addr {
        u32::from(self.inner).wrapping_add(256).into()
    }

    /// The first pair from `start` on, going around, of which no address is `used`.
    fn choose(range: Ipv4Addr, start: u64, used: &[Ipv4Addr]) -> Option<Self> {
        let start = (start % u64::from(PAIRS)) as u32;
        (0..PAIRS)
            .map(|step| Self::at(range, (start + step) % PAIRS))
            .find(|pair| !used.contains(&pair.host) && !used.contains(&pair.inner))
    }
}

/// Joins the VMs' namespace to the host's, or brings what is there up to date.
pub(super) async fn join(
    config: &NetworkConfig,
    range: Ipv4Addr,
    host: &Worker,
    inside: &Worker,
    namespace: &Namespace,
) -> Result<(), NetworkError> {
    let install = config.install;
    let pair = connect(install, range, host, inside, namespace).await?;
    let rules = rules::host(rules::Host {
        table: &table(install),
        device: &device(install),
        inner: pair.inner,
        open: pair.open(),
        resolvers: &config.resolvers,
        allow: &config.allow,
        on_host: &config.reach_on_host,
    });
    host.run(move || nft::load(&rules)).await??;
    let hide = rules::hide(pair.open());
    inside.run(move || nft::load(&hide)).await??;
    host.configure(async move |handle| {
        let index = links::existing(&handle, &device(install)).await?;
        links::route_by(&handle, index, pair.open(), pair.inner).await
    })
    .await?;
    inside
        .configure(async move |handle| {
            let index = links::existing(&handle, rules::UPLINK).await?;
            links::add_address(&handle, index, pair.inner, 31, AddressScope::Universe).await?;
            links::up(&handle, index, None).await?;
            links::default_route(&handle, index, pair.host).await
        })
        .await?;
    // Forwarding comes last: by now both filters stand.
    if host.run(sysctl::forward).await?? {
        tracing::warn!(
            "switched IPv4 forwarding on for this host (net.ipv4.ip_forward), which guests need to \
             reach the Internet; it stays on, because others may rely on it by the time we stop"
        );
    }
    Ok(())
}

/// Takes the pair and the host's rules away; also right when there are none.
pub(super) async fn leave(install: InstallId, host: &Worker) -> Result<(), NetworkError> {
    host.configure(async move |handle| links::delete(&handle, &device(install)).await)
        .await?;
    host.run(move || nft::load(&rules::without(&table(install))))
        .await?
}

async fn connect(
    install: InstallId,
    range: Ipv4Addr,
    host: &Worker,
    inside: &Worker,
    namespace: &Namespace,
) -> Result<Pair, NetworkError> {
    let inner_end = inside
        .configure(async |handle| links::index(&handle, rules::UPLINK).await)
        .await?;
    let object = namespace::handle(namespace.object())?;
    let name = device(install);
    let made = host
        .configure(async move |handle| {
            if inner_end.is_none() {
                // Left over from a namespace that is gone, or half made.
                links::delete(&handle, &name).await?;
                make(&handle, &name, object.as_fd().as_raw_fd()).await?;
            }
            let index = links::existing(&handle, &name).await?;
            // Until the address is entered, no other server on this host may choose.
            let lock = namespace::host_lock()?;
            address(&handle, index, &name, install, range, lock).await
        })
        .await?;
    let name = device(install);
    host.run(move || sysctl::disable_ipv6(&name)).await??;
    Ok(made)
}

/// Makes the pair: `name` here, and its other end in the namespace with this handle.
pub(super) async fn make(handle: &Handle, name: &str, inside: i32) -> Result<(), NetworkError> {
    // The far end is born in the VMs' namespace: no name of ours ever shows up in the host's but this.
    let far = LinkMessageBuilder::<LinkUnspec>::new()
        .name(rules::UPLINK.to_owned())
        .setns_by_fd(inside)
        .build();
    let near = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(name.to_owned())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
        .append_extra_attribute(LinkAttribute::IfAlias(
            "remote-dockerd: the VMs' way out".to_owned(),
        ));
    let made = handle.link().add(near.build()).execute().await;
    made.map_err(NetworkError::netlink(format!("make the uplink {name}")))
}

async fn address(
    handle: &Handle,
    index: u32,
    name: &str,
    install: InstallId,
    range: Ipv4Addr,
    _lock: Flock<std::fs::File>,
) -> Result<Pair, NetworkError> {
    let all = links::addresses(handle).await?;
    let mine = |pair: &Pair| all.contains(&(index, pair.host));
    let pair = match (0..PAIRS).map(|number| Pair::at(range, number)).find(mine) {
        Some(pair) => pair,
        None => {
            let used: Vec<_> = all.iter().map(|(_, address)| *address).collect();
            Pair::choose(range, install.bits(), &used)
                .ok_or(NetworkError::UplinkRangeUsedUp { range })?
        }
    };
    links::add_address(handle, index, pair.host, 31, AddressScope::Universe).await?;
    links::up(handle, index, None).await?;
    tracing::info!(device = name, host = %pair.host, inner = %pair.inner, "uplink is up");
    Ok(pair)
}

fn device(install: InstallId) -> String {
    install.uplink()
}

/// Name of our table in the host's namespace.
fn table(install: InstallId) -> String {
    format!("{}_{}", rules::TABLE, install.uplink())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: Ipv4Addr = Ipv4Addr::new(169, 254, 240, 0);

    #[test]
    fn the_pair_is_the_first_free_one_going_around() {
        let last = Pair::at(RANGE, 127);
        assert_eq!(last.inner, Ipv4Addr::new(169, 254, 240, 255));
        assert_eq!(Pair::choose(RANGE, 127, &[]), Some(last));
        // Either end in use makes a pair unusable.
        for used in [last.host, last.inner] {
            assert_eq!(Pair::choose(RANGE, 127, &[used]), Some(Pair::at(RANGE, 0)));
        }
        let all: Vec<_> = (0..PAIRS).map(|n| Pair::at(RANGE, n).host).collect();
        assert_eq!(Pair::choose(RANGE, 3, &all), None);
        assert_eq!(Pair::choose(RANGE, 3, &all[1..]), Some(Pair::at(RANGE, 0)));
    }
}
