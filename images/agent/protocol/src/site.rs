//! What the site wants of its Docker daemons, whoever leases them.
//!
//! In two parts. [`Live`] can be changed in a guest whose daemon runs: it comes with every activation, so
//! a clone has what the server's configuration says today. [`Fixed`] is read by the daemon as it starts:
//! it is a part of what a template is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// All of it, for a guest whose daemon does not run yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Site {
    /// What the daemon reads as it starts.
    pub fixed: Fixed,
    /// What can be changed later.
    pub live: Live,
}

/// What can be changed while the daemon runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Live {
    /// Mirrors of Docker Hub, asked in this order before Docker Hub itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub registry_mirrors: Vec<String>,
    /// Registries whose certificate is not checked, or that speak plain HTTP: `host[:port]`, or ranges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub insecure_registries: Vec<String>,
    /// Who is trusted beside the authorities that the image brings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authorities: Vec<Authority>,
}

impl Live {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Certificates of authorities that the site has of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Authority {
    /// One certificate each (PEM).
    pub certificates: Vec<String>,
    /// The registries, `host[:port]`, for which they are trusted; when none is named, for everything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub registries: Vec<String>,
}

/// What the daemon reads as it starts. The order of maps and lists is part of it: a template is told
/// by the JSON of it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fixed {
    /// The way to servers outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// The largest packet, in bytes, of the machine and of the networks that the daemon makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Ranges out of which networks of containers get their addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub address_pools: Vec<AddressPool>,
    /// Options of the log driver, such as `max-size`; those that are not named stay as the image has
    /// them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub log_options: BTreeMap<String, String>,
    /// Limits of what containers may use, by name, such as `nofile`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ulimits: BTreeMap<String, Ulimit>,
}

impl std::fmt::Debug for Fixed {
    /// Leaves the proxy's address out: there may be a password in it, and what is printed may land in a
    /// log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fixed")
            .field("proxy", &self.proxy.is_some())
            .field("mtu", &self.mtu)
            .finish_non_exhaustive()
    }
}

impl Fixed {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A proxy of HTTP.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Proxy {
    /// For `http://`; its URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// For `https://`; its URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https: Option<String>,
    /// Hosts, domains and ranges that are reached without it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

/// A range that networks are cut out of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPool {
    /// The range, such as `10.200.0.0/16`.
    pub base: String,
    /// Length of the prefix of each network cut out of it.
    pub size: u8,
}

/// A limit of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// What applies until a program raises it.
    pub soft: i64,
    /// How far a program may raise it.
    pub hard: i64,
}
