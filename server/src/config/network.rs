//! The VMs' network.

use std::net::Ipv4Addr;

use remote_docker_api::Egress;
use serde::Deserialize;

use super::egress::{AllowRule, Asked, Cidr, EgressOffer};
use super::error::Faults;
use super::machine_limits::MachineLimits;

/// Table `[network]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// The guests' addresses.
    pub guest_network: GuestNetwork,
    /// How guests reach the Internet.
    pub uplink: Uplink,
    /// Name servers that guests are told; when empty, those of the host.
    pub nameservers: Vec<Ipv4Addr>,
    /// The policies that leases may ask for.
    egress: Option<Vec<Egress>>,
    /// The one of leases that ask for none.
    default_egress: Option<Egress>,
    /// What machines under `internet` reach besides public addresses.
    pub allow: Vec<AllowRule>,
    /// How much of the network each machine may take.
    pub limits: MachineLimits,
}

/// How guests reach the Internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Uplink {
    /// Through a pair of virtual wires and the host's address.
    Veth,
    /// Not at all.
    None,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            guest_network: GuestNetwork(Ipv4Addr::new(10, 213, 0, 0)),
            uplink: Uplink::Veth,
            nameservers: Vec::new(),
            egress: None,
            default_egress: None,
            allow: Vec::new(),
            limits: MachineLimits::default(),
        }
    }
}

impl NetworkConfig {
    /// The policies that leases may ask for: `internet` and `none` unless the file says otherwise.
    #[must_use]
    pub fn egress_offer(&self) -> EgressOffer {
        self.asked().offer()
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            offered: self.egress.as_deref(),
            default: self.default_egress,
            allow: &self.allow,
            has_uplink: self.uplink != Uplink::None,
        }
    }

    pub(super) fn validate(&self, faults: &mut Faults) {
        let [a, b, ..] = self.guest_network.0.octets();
        // RFC 6598: like the private ranges, never on the Internet.
        let carrier_grade = a == 100 && (64..128).contains(&b);
        if !self.guest_network.0.is_private() && !carrier_grade {
            faults.add(
                "network.guest_network",
                format!(
                    "is {}/16, which belongs to somebody on the Internet: choose one in 10.0.0.0/8, \
                     172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10 that this host does not use",
                    self.guest_network.0
                ),
            );
        }
        self.asked().validate(faults);
        self.limits.validate(faults);
        for (index, server) in self.nameservers.iter().enumerate() {
            if server.is_loopback() || server.is_unspecified() {
                faults.add(
                    format!("network.nameservers[{index}]"),
                    format!("is {server}, which inside a guest means the guest itself"),
                );
            }
        }
    }
}

/// A /16 of IPv4. In the file: `"10.213.0.0/16"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct GuestNetwork(Ipv4Addr);

impl GuestNetwork {
    /// Its first address.
    #[must_use]
    pub fn base(self) -> Ipv4Addr {
        self.0
    }

    /// The same as any range.
    #[must_use]
    pub fn as_cidr(self) -> Cidr {
        Cidr::new(self.0, 16)
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        self.as_cidr().overlaps(Cidr::new(address, 32))
    }
}

impl TryFrom<String> for GuestNetwork {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.strip_suffix("/16")
            .and_then(|base| base.parse::<Ipv4Addr>().ok())
            .filter(|base| base.octets()[2..] == [0, 0])
            .map(Self)
            .ok_or_else(|| "expected a /16 such as \"10.213.0.0/16\"".to_owned())
    }
}
