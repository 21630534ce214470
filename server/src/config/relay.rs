//! The relay's listeners.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use serde::Deserialize;

use super::error::Faults;
use crate::pki::SanName;

/// Table `[relay]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayConfig {
    /// Address that the relay listens on. What passes is TLS from end to end, so any will do.
    pub listen_ip: Ipv4Addr,
    /// Name or address that clients are told to connect to; [`Self::advertised_host`] knows the
    /// default.
    advertise: Option<String>,
    /// TCP ports for leases, one each.
    pub ports: PortRange,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            listen_ip: Ipv4Addr::LOCALHOST,
            advertise: None,
            ports: PortRange {
                first: 23_760,
                last: 24_759,
            },
        }
    }
}

impl RelayConfig {
    /// Name or address that clients connect to: the listen address unless the file says otherwise.
    #[must_use]
    pub fn advertised_host(&self) -> String {
        self.advertise
            .clone()
            .unwrap_or_else(|| self.listen_ip.to_string())
    }

    pub(super) fn validate(&self, http: SocketAddr, faults: &mut Faults) {
        match &self.advertise {
            Some(host) if !SanName::from_host(host).is_valid() => faults.add(
                "relay.advertise",
                "must be a host name or an address, without scheme, brackets and port",
            ),
            None if self.listen_ip.is_unspecified() => faults.add(
                "relay.advertise",
                format!(
                    "is missing: nobody can connect to `relay.listen_ip` = {}; set the name or \
                     address by which clients reach this host",
                    self.listen_ip
                ),
            ),
            _ => {}
        }
        let same_address = IpAddr::V4(self.listen_ip) == http.ip()
            || self.listen_ip.is_unspecified()
            || http.ip().is_unspecified();
        if same_address && self.ports.as_range().contains(&http.port()) {
            faults.add(
                "relay.ports",
                format!("contain port {} of `http.listen`", http.port()),
            );
        }
    }
}

/// TCP ports, both ends included. In the file: `"23760-24759"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The ports.
    #[must_use]
    pub fn as_range(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

impl TryFrom<String> for PortRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let numbers = text.split_once('-').and_then(|(first, last)| {
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        });
        match numbers {
            Some((first, last)) if first <= last && first >= 1024 => Ok(Self { first, last }),
            _ => Err(
                "expected two ports from 1024 on with a hyphen between, such as \"23760-24759\""
                    .to_owned(),
            ),
        }
    }
}
