//! What containers get: addresses, room for their logs, limits.

use std::collections::BTreeMap;

use guest_protocol::{AddressPool, Ulimit};
use serde::{Deserialize, Serialize};

use crate::config::error::Faults;
use crate::config::{Cidr, GuestNetwork};

/// One entry of `site.address_pools`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AddressPoolConfig {
    /// The range.
    pub base: Cidr,
    /// Length of the prefix of each network that is cut out of it.
    pub size: u8,
}

impl From<&AddressPoolConfig> for AddressPool {
    fn from(pool: &AddressPoolConfig) -> Self {
        Self {
            base: pool.base.to_string(),
            size: pool.size,
        }
    }
}

/// A network has at least a gateway, a container and two addresses that are nobody's.
const SMALLEST_NETWORK: u8 = 29;

pub(super) fn validate_pools(
    pools: &[AddressPoolConfig],
    guests: GuestNetwork,
    faults: &mut Faults,
) {
    for (index, pool) in pools.iter().enumerate() {
        let key = format!("site.address_pools[{index}]");
        let prefix = pool.base.prefix();
        if !(prefix..=SMALLEST_NETWORK).contains(&pool.size) || prefix == 0 {
            faults.add(
                format!("{key}.size"),
                format!(
                    "is {}, and no such network can be cut out of {}; allowed are {} to {SMALLEST_NETWORK}, as \
                     in {{ base = \"10.200.0.0/16\", size = 24 }}",
                    pool.size,
                    pool.base,
                    prefix.max(1)
                ),
            );
        }
        if guests.as_cidr().overlaps(pool.base) {
            faults.add(
                format!("{key}.base"),
                format!(
                    "is {}, which overlaps `network.guest_network`, {}: containers would take a machine's own \
                     address for one of theirs",
                    pool.base,
                    guests.as_cidr()
                ),
            );
        }
        let never = crate::network::NEVER.into_iter().find(|never| {
            Cidr::try_from((*never).to_owned()).is_ok_and(|never| never.overlaps(pool.base))
        });
        if let Some(never) = never {
            faults.add(
                format!("{key}.base"),
                format!(
                    "is {}, which overlaps {never}, where no container can be",
                    pool.base
                ),
            );
        }
        let earlier = pools[..index]
            .iter()
            .position(|other| other.base.overlaps(pool.base));
        if let Some(earlier) = earlier {
            faults.add(
                format!("{key}.base"),
                format!(
                    "is {}, which overlaps that of `site.address_pools[{earlier}]`",
                    pool.base
                ),
            );
        }
    }
}

/// Table `[site.container_logs]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContainerLogConfig {
    /// The largest file, such as `10m`.
    pub max_size: Option<String>,
    /// How many files.
    pub max_files: Option<u16>,
}

impl ContainerLogConfig {
    pub(super) fn options(&self) -> BTreeMap<String, String> {
        let size = self
            .max_size
            .clone()
            .map(|size| ("max-size".to_owned(), size));
        let files = self
            .max_files
            .map(|count| ("max-file".to_owned(), count.to_string()));
        size.into_iter().chain(files).collect()
    }

    pub(super) fn validate(&self, faults: &mut Faults) {
        if let Some(size) = &self.max_size {
            let digits = size.trim_end_matches(['k', 'm', 'g']);
            let good = size.len() - digits.len() == 1 && digits.parse::<u32>().is_ok_and(|n| n > 0);
            if !good {
                faults.add(
                    "site.container_logs.max_size",
                    format!("is `{size}`; it is a number with k, m or g behind, such as \"10m\""),
                );
            }
        }
        if self.max_files == Some(0) {
            faults.add("site.container_logs.max_files", "is 0; there is at least 1");
        }
    }
}

/// One of `site.ulimits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UlimitConfig {
    /// What applies until a program raises it.
    pub soft: i64,
    /// How far a program may raise it.
    pub hard: i64,
}

impl From<&UlimitConfig> for Ulimit {
    fn from(limit: &UlimitConfig) -> Self {
        Self {
            soft: limit.soft,
            hard: limit.hard,
        }
    }
}

/// Those that Docker knows.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

pub(super) fn validate_ulimits(limits: &BTreeMap<String, UlimitConfig>, faults: &mut Faults) {
    for (name, limit) in limits {
        let key = format!("site.ulimits.{name}");
        if !ULIMITS.contains(&name.as_str()) {
            faults.add(
                &*key,
                format!("is no limit; there are: {}", ULIMITS.join(", ")),
            );
        }
        // -1 means none.
        let above = limit.hard != -1 && (limit.soft == -1 || limit.soft > limit.hard);
        if limit.soft < -1 || limit.hard < -1 || above {
            faults.add(
                &*key,
                format!(
                    "is {{ soft = {}, hard = {} }}; neither may be below -1, which means no limit, and `soft` not \
                     above `hard`, as in {{ soft = 1024, hard = 4096 }}",
                    limit.soft, limit.hard
                ),
            );
        }
    }
}
