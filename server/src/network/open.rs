//! Opens the VMs' network as a whole, and closes it when nothing is in it.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::worker::Worker;
use super::{
    Namespace, NamespaceDialer, NetworkError, Wires, links, namespace, nft, rules, sysctl, uplink,
};
use crate::config::{AllowRule, MachineLimits};
use crate::ids::InstallId;

/// What the VMs' network is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Whose network it is; names the namespace and the uplink.
    pub install: InstallId,
    /// First address of the guests' network, a /16.
    pub guests: Ipv4Addr,
    /// How guests reach the Internet.
    pub uplink: Uplink,
    /// Name servers that guests may ask, wherever they are; see [`super::host_resolvers`].
    pub resolvers: Vec<Ipv4Addr>,
    /// What guests under [`Egress::Internet`](remote_docker_api::Egress) reach besides public addresses.
    pub allow: Vec<AllowRule>,
    /// Addresses and TCP ports of the host that guests reach.
    pub reach_on_host: Vec<SocketAddrV4>,
    /// How much each guest may take.
    pub limits: MachineLimits,
}

/// How guests reach the Internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uplink {
    /// Through the host, hidden behind its address. Guests reach public addresses only.
    Veth {
        /// First address of a /24 out of which the pair takes two. They are seen on this host only.
        range: Ipv4Addr,
    },
    /// Not at all.
    None,
}

impl Default for Uplink {
    /// Link-local addresses: they collide with nobody's network, and are on no wire but ours.
    fn default() -> Self {
        Self::Veth {
            range: Ipv4Addr::new(169, 254, 240, 0),
        }
    }
}

/// The VMs' network.
#[derive(Debug)]
pub struct Network {
    install: InstallId,
    host: Worker,
    /// The namespace.
    pub namespace: Namespace,
    /// The wires in it.
    pub wires: Wires,
    /// Connections into it.
    pub dialer: NamespaceDialer,
}

impl Network {
    /// Opens the installation's network, making or repairing whatever is not as it should be; VMs in
    /// it stay connected. "The host" is the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the system refuses a step, or when `nft` is missing. What had been made by then is taken
    /// away again unless VMs are connected to it. Call again after the cause is gone: no half-made
    /// state is in the way.
    pub async fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let host = Worker::start("uplink", namespace::current()?)?;
        let namespace = Namespace::open_or_create(config.install)?;
        let wires = Wires::new(&namespace)?;
        let dialer = NamespaceDialer::new(&namespace)?;
        let network = Self {
            install: config.install,
            host,
            namespace,
            wires,
            dialer,
        };
        if let Err(error) = network.set_up(config).await {
            if let Err(left) = network.close_if_empty().await {
                tracing::warn!(
                    error = &left as &dyn std::error::Error,
                    "the VMs' network, half made, is not taken down"
                );
            }
            return Err(error);
        }
        Ok(network)
    }

    async fn set_up(&self, config: NetworkConfig) -> Result<(), NetworkError> {
        let inside = self.wires.worker();
        settle(inside, &config).await?;
        match config.uplink {
            Uplink::Veth { range } => {
                let (host, namespace) = (&self.host, &self.namespace);
                uplink::join(&config, range, host, inside, namespace).await
            }
            Uplink::None => uplink::leave(config.install, &self.host).await,
        }
    }

    /// Takes everything away if no VM is connected; otherwise leaves everything as it is, for the next
    /// server to find. Tells whether it closed.
    ///
    /// # Errors
    /// When the system refuses a step; call again.
    pub async fn close_if_empty(&self) -> Result<bool, NetworkError> {
        if !self.wires.list().await?.is_empty() {
            return Ok(false);
        }
        uplink::leave(self.install, &self.host).await?;
        self.namespace.remove()?;
        Ok(true)
    }
}

/// Sets up the inside of the namespace. The filter stands before anything is forwarded.
pub(super) async fn settle(inside: &Worker, config: &NetworkConfig) -> Result<(), NetworkError> {
    let rules = rules::namespace(rules::Inside {
        uplink: config.uplink != Uplink::None,
        resolvers: &config.resolvers,
        allow: &config.allow,
        on_host: &config.reach_on_host,
        limits: config.limits,
    });
    inside
        .run(move || {
            sysctl::harden()?;
            nft::load(&rules)
        })
        .await??;
    let guests = config.guests;
    inside
        .configure(async move |handle| {
            let loopback = links::existing(&handle, "lo").await?;
            links::up(&handle, loopback, None).await?;
            // A guest that is gone cannot be reached: without this, what is sent to it would go out
            // by the uplink and look for it in the host's network.
            links::unreachable(&handle, guests, 16).await
        })
        .await?;
    inside.run(sysctl::forward).await??;
    Ok(())
}
