//! What the site has of its own: mirrors, registries, authorities, proxies, and what its containers get.
//!
//! Everything is applied to the Docker daemon of each guest, the BuildKit in it, and what it starts. What a
//! guest's daemon can be told while it runs ([`guest_protocol::Live`]) needs no new template when it
//! changes; the rest ([`guest_protocol::Fixed`]) does.

mod certificates;
mod containers;
mod endings;
mod names;
mod proxy;

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::path::PathBuf;

use guest_protocol::{Authority, Fixed, Live, Site};
use serde::{Deserialize, Serialize};

use super::error::Faults;
use super::network::{NetworkConfig, Uplink};
use containers::{AddressPoolConfig, ContainerLogConfig, UlimitConfig};
use proxy::ProxyConfig;

pub use endings::{CONSEQUENCE, Ending};

/// Room in one frame of the agent's protocol for what else an activation says.
const MOST_BYTES: usize = guest_protocol::MAX_FRAME_BYTES - 16 * 1024;

/// The smallest packets that IPv4 hosts must take, RFC 791, and the largest of Ethernet without jumbo
/// frames, which is what a guest's wire has.
const MTU: std::ops::RangeInclusive<u16> = 576..=1500;

/// Table `[site]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SiteConfig {
    /// Mirrors of Docker Hub, asked before it in this order.
    pub registry_mirrors: Vec<String>,
    /// Registries whose certificate is not checked, or that speak plain HTTP.
    pub insecure_registries: Vec<String>,
    /// Authorities that guests trust besides those of their image.
    pub ca: Vec<CaConfig>,
    /// Addresses and TCP ports of this host that guests reach, such as those of a mirror on it.
    pub reach_on_host: Vec<SocketAddrV4>,
    /// The way to servers outside.
    pub proxy: ProxyConfig,
    /// The largest packet of guests and of the networks in them, in bytes.
    pub mtu: Option<u16>,
    /// Ranges out of which networks of containers get their addresses.
    pub address_pools: Vec<AddressPoolConfig>,
    /// How much is kept of what containers print.
    pub container_logs: ContainerLogConfig,
    /// Limits of containers, by name.
    pub ulimits: BTreeMap<String, UlimitConfig>,
}

/// One entry of `site.ca`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaConfig {
    /// File of its certificate, or of several (PEM).
    pub file: PathBuf,
    /// The registries for which they are trusted; when none is named, for everything.
    #[serde(default)]
    pub registries: Vec<String>,
}

/// A file of authorities cannot be used any more.
#[derive(Debug, thiserror::Error)]
#[error("`site.ca`: {path} {what}", path = path.display())]
pub struct CaError {
    path: PathBuf,
    what: String,
}

impl SiteConfig {
    /// What guests are told. Reads the files of the authorities.
    ///
    /// # Errors
    /// With the first file that changed since it was checked and cannot be used any more.
    pub fn for_guests(&self) -> Result<Site, CaError> {
        let authorities = self.ca.iter().map(|ca| {
            let certificates = certificates::read(&ca.file).map_err(|what| CaError {
                path: ca.file.clone(),
                what,
            })?;
            Ok(Authority {
                certificates,
                registries: ca.registries.clone(),
            })
        });
        Ok(Site {
            fixed: self.fixed(),
            live: Live {
                registry_mirrors: self.registry_mirrors.clone(),
                insecure_registries: self.insecure(),
                authorities: authorities.collect::<Result<_, CaError>>()?,
            },
        })
    }

    /// A mirror that speaks plain HTTP is one that BuildKit must be told of as such.
    fn insecure(&self) -> Vec<String> {
        let mut list = self.insecure_registries.clone();
        for mirror in &self.registry_mirrors {
            if let Some(host) = mirror.strip_prefix("http://") {
                let host = host.trim_end_matches('/').to_owned();
                if !list.contains(&host) {
                    list.push(host);
                }
            }
        }
        list
    }

    fn fixed(&self) -> Fixed {
        Fixed {
            proxy: self.proxy.for_guests(&self.registry_mirrors),
            mtu: self.mtu,
            address_pools: self.address_pools.iter().map(Into::into).collect(),
            log_options: self.container_logs.options(),
            ulimits: self
                .ulimits
                .iter()
                .map(|(name, limit)| (name.clone(), limit.into()))
                .collect(),
        }
    }

    pub(super) fn validate(&self, network: &NetworkConfig, faults: &mut Faults) {
        for (index, mirror) in self.registry_mirrors.iter().enumerate() {
            if let Err(what) = names::mirror(mirror) {
                faults.add(format!("site.registry_mirrors[{index}]"), what);
            }
        }
        for (index, registry) in self.insecure_registries.iter().enumerate() {
            if let Err(what) = names::registry_or_range(registry) {
                faults.add(format!("site.insecure_registries[{index}]"), what);
            }
        }
        self.validate_ca(faults);
        self.validate_reach(network, faults);
        self.proxy.validate(faults);
        if let Some(mtu) = self.mtu
            && !MTU.contains(&mtu)
        {
            faults.add(
                "site.mtu",
                format!("is {mtu}; allowed are {} to {}", MTU.start(), MTU.end()),
            );
        }
        containers::validate_pools(&self.address_pools, network.guest_network, faults);
        self.container_logs.validate(faults);
        containers::validate_ulimits(&self.ulimits, faults);
        // When a file cannot be read, that is told already.
        let bytes = self.for_guests().ok().map(|site| serde_json::to_vec(&site));
        if let Some(Ok(text)) = bytes
            && text.len() > MOST_BYTES
        {
            faults.add(
                "site",
                format!(
                    "is {} bytes long as guests are told it, certificates included; allowed are {MOST_BYTES}: \
                     name the authorities of your site and not a bundle of everybody's",
                    text.len()
                ),
            );
        }
    }

    fn validate_ca(&self, faults: &mut Faults) {
        for (index, ca) in self.ca.iter().enumerate() {
            let key = format!("site.ca[{index}]");
            if !ca.file.is_absolute() {
                faults.add(format!("{key}.file"), "must be an absolute path");
            } else if let Err(what) = certificates::read(&ca.file) {
                faults.add(
                    format!("{key}.file"),
                    format!("is {}, which {what}", ca.file.display()),
                );
            }
            for (part, registry) in ca.registries.iter().enumerate() {
                if let Err(what) = names::registry(registry) {
                    faults.add(format!("{key}.registries[{part}]"), what);
                }
            }
        }
    }

    fn validate_reach(&self, network: &NetworkConfig, faults: &mut Faults) {
        for (index, place) in self.reach_on_host.iter().enumerate() {
            let ip = place.ip();
            let what = if network.uplink == Uplink::None {
                "can never be reached: `network.uplink` is \"none\"".to_owned()
            } else if ip.is_loopback() || ip.is_unspecified() || ip.is_link_local() {
                format!(
                    "is {place}: {ip} does not mean this host to a guest; name an address that the host has, \
                     such as \"192.168.1.10:5000\""
                )
            } else if ip.is_multicast() || ip.is_broadcast() || place.port() == 0 {
                format!("is {place}, which is no address and port such as \"192.168.1.10:5000\"")
            } else if network.guest_network.contains(*ip) {
                format!(
                    "is {place}, which is in the guests' own network, {}/16",
                    network.guest_network.base()
                )
            } else {
                continue;
            };
            faults.add(format!("site.reach_on_host[{index}]"), what);
        }
    }
}

#[cfg(test)]
mod tests;
