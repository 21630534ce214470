//! What machines may be allowed to reach.

use std::fmt;
use std::net::Ipv4Addr;

use remote_docker_api::Egress;
use serde::{Deserialize, Serialize};

use super::error::Faults;
use crate::network::NEVER;

/// The policies that requests may ask for, and the one of those that ask for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressOffer {
    /// Those that may be asked for.
    pub offered: Vec<Egress>,
    /// The one of requests that name none.
    pub default: Egress,
}

impl EgressOffer {
    /// What is left of it for who may ask for nothing more open than `most`. Where its default is too open,
    /// the most open one that is left stands in for it.
    #[must_use]
    pub fn up_to(&self, most: Egress) -> Self {
        let within = |policy: &Egress| most.covers(*policy);
        let offered: Vec<Egress> = self.offered.iter().copied().filter(within).collect();
        let widest = |one: Egress, other: Egress| if one.covers(other) { one } else { other };
        let default = if within(&self.default) {
            self.default
        } else {
            // `none` is what no cap forbids, should nothing be left.
            offered.iter().copied().fold(Egress::None, widest)
        };
        Self { offered, default }
    }

    /// The policies that may be asked for, in words.
    #[must_use]
    pub fn words(&self) -> String {
        let words: Vec<&str> = self.offered.iter().map(|policy| policy.as_str()).collect();
        words.join(", ")
    }
}

impl Default for EgressOffer {
    /// Private networks are for sites that say so.
    fn default() -> Self {
        Self {
            offered: vec![Egress::Internet, Egress::None],
            default: Egress::Internet,
        }
    }
}

/// One entry of `network.allow`: something that machines under `internet` reach although it may not be
/// public.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowRule {
    /// Where.
    pub cidr: Cidr,
    /// Its ports; all when none are named.
    #[serde(default)]
    pub ports: Vec<Ports>,
    /// By TCP or UDP only; by both when it is left out.
    #[serde(default)]
    pub protocol: Option<Protocol>,
}

impl AllowRule {
    /// The protocols that it is about.
    #[must_use]
    pub fn protocols(&self) -> &[Protocol] {
        match self.protocol {
            None => &[Protocol::Tcp, Protocol::Udp],
            Some(Protocol::Tcp) => &[Protocol::Tcp],
            Some(Protocol::Udp) => &[Protocol::Udp],
        }
    }
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A range of IPv4 addresses. In the file: `"10.1.2.0/24"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    base: Ipv4Addr,
    prefix: u8,
}

impl Cidr {
    /// The range of this length that an address is in.
    #[must_use]
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self {
            base: (u32::from(address) & Self::mask(prefix)).into(),
            prefix,
        }
    }

    /// How many of the first bits are the same in all of it.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    fn mask(prefix: u8) -> u32 {
        u32::MAX
            .checked_shl(32 - u32::from(prefix))
            .unwrap_or_default()
    }

    /// Whether an address is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let mask = Self::mask(self.prefix.min(other.prefix));
        u32::from(self.base) & mask == u32::from(other.base) & mask
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(base, prefix)| {
            Some((base.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?))
        });
        match parts {
            Some((base, prefix)) if prefix <= 32 && u32::from(base) & !Self::mask(prefix) == 0 => {
                Ok(Self { base, prefix })
            }
            _ => Err(
                "expected the first address of a range of IPv4 addresses with its length, \
                      such as \"10.1.2.0/24\", or \"10.1.2.3/32\" for one"
                    .to_owned(),
            ),
        }
    }
}

impl From<Cidr> for String {
    fn from(range: Cidr) -> Self {
        range.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// A port or a range of them, both ends included. In the file: `443` or `"8000-8999"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PortsInFile")]
pub struct Ports {
    first: u16,
    last: u16,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PortsInFile {
    Number(i64),
    Text(String),
}

impl TryFrom<PortsInFile> for Ports {
    type Error = &'static str;

    fn try_from(said: PortsInFile) -> Result<Self, Self::Error> {
        let ends = match &said {
            PortsInFile::Number(port) => u16::try_from(*port).ok().map(|port| (port, port)),
            PortsInFile::Text(text) => text.split_once('-').and_then(|(first, last)| {
                Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
            }),
        };
        match ends {
            Some((first, last)) if first <= last && first > 0 => Ok(Self { first, last }),
            _ => Err("expected a port such as 443 or a range of ports such as \"8000-8999\""),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// What is asked for in the file; see [`super::NetworkConfig::egress_offer`] for what comes of it.
pub(super) struct Asked<'a> {
    pub(super) offered: Option<&'a [Egress]>,
    pub(super) default: Option<Egress>,
    pub(super) allow: &'a [AllowRule],
    pub(super) has_uplink: bool,
}

impl Asked<'_> {
    /// Without a way out, nothing is the only policy that can be met, and is so without being said.
    pub(super) fn offer(&self) -> EgressOffer {
        let offered = match self.offered {
            Some(offered) => offered.to_vec(),
            None if !self.has_uplink => vec![Egress::None],
            None => {
                let mut offered = EgressOffer::default().offered;
                offered.extend(self.default.filter(|policy| !offered.contains(policy)));
                offered
            }
        };
        let first = offered.first().copied().unwrap_or_default();
        let usual = offered.contains(&Egress::Internet);
        let fallback = if usual { Egress::Internet } else { first };
        EgressOffer {
            default: self.default.unwrap_or(fallback),
            offered,
        }
    }

    pub(super) fn validate(&self, faults: &mut Faults) {
        const NO_WAY_OUT: &str = "can never be met: `network.uplink` is \"none\"; name only \"none\", or leave \
                                  it out";
        let offer = self.offer();
        if self.offered.is_some_and(<[Egress]>::is_empty) {
            faults.add(
                "network.egress",
                "must name a policy, such as [\"internet\", \"none\"]",
            );
        } else if !offer.offered.contains(&offer.default) {
            faults.add(
                "network.default_egress",
                format!(
                    "is \"{}\", which `network.egress` does not offer",
                    offer.default
                ),
            );
        }
        if !self.has_uplink {
            let named = self.offered.unwrap_or_default();
            if named.iter().any(|policy| *policy != Egress::None) {
                faults.add("network.egress", NO_WAY_OUT);
            }
            if self.default.is_some_and(|policy| policy != Egress::None) {
                faults.add("network.default_egress", NO_WAY_OUT);
            }
            if !self.allow.is_empty() {
                faults.add(
                    "network.allow",
                    "can never be met: `network.uplink` is \"none\"",
                );
            }
        } else if !self.allow.is_empty() && !offer.offered.contains(&Egress::Internet) {
            faults.add(
                "network.allow",
                "is for leases under \"internet\", which `network.egress` does not offer",
            );
        }
        for (index, rule) in self.allow.iter().enumerate() {
            let never = NEVER.into_iter().find(|never| {
                Cidr::try_from((*never).to_owned()).is_ok_and(|never| never.overlaps(rule.cidr))
            });
            if let Some(never) = never {
                faults.add(
                    format!("network.allow[{index}].cidr"),
                    format!(
                        "is {}, of which {never} is never reached: it is the machine itself, the host, a \
                         cloud's metadata or a group of receivers",
                        rule.cidr
                    ),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Result<Cidr, String> {
        Cidr::try_from(text.to_owned())
    }

    #[test]
    fn ranges_are_read_and_written() {
        for good in ["10.1.2.0/24", "10.1.2.3/32", "0.0.0.0/0", "10.0.0.0/8"] {
            assert_eq!(cidr(good).unwrap().to_string(), good);
        }
        for bad in [
            "10.1.2.1/24",
            "10.1.2.0/33",
            "10.1.2.0",
            "::/0",
            "a/8",
            "1.1.1.1/-1",
        ] {
            assert!(cidr(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_overlap_when_either_holds_a_part_of_the_other() {
        let overlap = |one, other| cidr(one).unwrap().overlaps(cidr(other).unwrap());
        assert!(overlap("10.0.0.0/8", "10.1.2.3/32") && overlap("10.1.2.3/32", "10.0.0.0/8"));
        assert!(overlap("0.0.0.0/0", "192.0.2.0/24"));
        assert!(!overlap("10.0.0.0/24", "10.0.1.0/24"));
    }

    #[test]
    fn ports_are_numbers_or_ranges() {
        let ports = |said| Ports::try_from(said).map(|ports| ports.to_string());
        let text = |text: &str| PortsInFile::Text(text.to_owned());
        assert_eq!(ports(PortsInFile::Number(443)).unwrap(), "443");
        assert_eq!(ports(text("8000-8999")).unwrap(), "8000-8999");
        for bad in [
            text("9-8"),
            text("0-1"),
            text("https"),
            PortsInFile::Number(65_536),
            PortsInFile::Number(0),
        ] {
            assert!(ports(bad).is_err());
        }
    }

    #[test]
    fn a_cap_leaves_what_is_no_more_open_and_a_default_among_it() {
        use Egress::{Internet, None as Nothing, Open};
        let offer = |offered: &[Egress], default| EgressOffer {
            offered: offered.to_vec(),
            default,
        };
        let all = offer(&[Internet, Nothing, Open], Open);
        assert_eq!(all.up_to(Open), all);
        assert_eq!(all.up_to(Internet), offer(&[Internet, Nothing], Internet));
        assert_eq!(all.up_to(Nothing), offer(&[Nothing], Nothing));
        // A default that is allowed stays, though there is a more open one.
        let closed = offer(&[Open, Nothing, Internet], Nothing);
        assert_eq!(closed.up_to(Internet), offer(&[Nothing, Internet], Nothing));
    }

    #[test]
    fn without_a_way_out_nothing_is_on_offer() {
        let asked = |offered, default, has_uplink| {
            let asked = Asked {
                offered,
                default,
                allow: &[],
                has_uplink,
            };
            let offer = asked.offer();
            (offer.offered, offer.default)
        };
        use Egress::{Internet, None as Nothing, Open};
        assert_eq!(asked(None, None, true), (vec![Internet, Nothing], Internet));
        assert_eq!(asked(None, None, false), (vec![Nothing], Nothing));
        assert_eq!(
            asked(None, Some(Open), true),
            (vec![Internet, Nothing, Open], Open)
        );
        assert_eq!(
            asked(Some(&[Open, Nothing]), None, true),
            (vec![Open, Nothing], Open)
        );
    }
}
