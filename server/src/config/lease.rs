//! How long leases last and requests wait, and how silent their holders may be.

use serde::Deserialize;

use super::error::Faults;

/// A month: what lives longer is not a lease.
const LONGEST_TTL_S: u32 = 31 * 24 * 3600;
/// Connections that are silent for longer are cut by proxies and firewalls on the way.
const LONGEST_WAIT_S: u32 = 3600;

/// Table `[lease]`. All values are seconds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LeaseConfig {
    /// How long a lease lasts when the request does not say.
    pub default_ttl_s: u32,
    /// How long a request may ask for.
    pub max_ttl_s: u32,
    /// How long a request waits for a machine when it does not say.
    pub default_wait_s: u32,
    /// How long a request may wait, and how long a lease that nobody holds the line for waits.
    pub max_wait_s: u32,
    /// How often a request may want to send heartbeats at most: the least `keepalive_s`.
    pub min_keepalive_s: u32,
    /// How seldom: the largest `keepalive_s`.
    pub max_keepalive_s: u32,
    /// The shortest idleness that a request may want its lease to end after.
    pub min_idle_s: u32,
    /// The longest.
    pub max_idle_s: u32,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            default_ttl_s: 3600,
            max_ttl_s: 86_400,
            default_wait_s: 120,
            max_wait_s: 600,
            min_keepalive_s: 5,
            max_keepalive_s: 3600,
            min_idle_s: 10,
            max_idle_s: 86_400,
        }
    }
}

impl LeaseConfig {
    pub(super) fn validate(&self, faults: &mut Faults) {
        if !(1..=LONGEST_TTL_S).contains(&self.max_ttl_s) {
            let what = format!("is {}; allowed are 1 to {LONGEST_TTL_S}", self.max_ttl_s);
            faults.add("lease.max_ttl_s", what);
        }
        if !(1..=self.max_ttl_s).contains(&self.default_ttl_s) {
            let what = format!(
                "is {}; allowed are 1 to {} (`lease.max_ttl_s`)",
                self.default_ttl_s, self.max_ttl_s
            );
            faults.add("lease.default_ttl_s", what);
        }
        if !(1..=LONGEST_WAIT_S).contains(&self.max_wait_s) {
            let what = format!("is {}; allowed are 1 to {LONGEST_WAIT_S}", self.max_wait_s);
            faults.add("lease.max_wait_s", what);
        }
        if self.default_wait_s > self.max_wait_s {
            let what = format!(
                "is {}; allowed are 0 to {} (`lease.max_wait_s`)",
                self.default_wait_s, self.max_wait_s
            );
            faults.add("lease.default_wait_s", what);
        }
        for (name, min, max) in [
            ("keepalive_s", self.min_keepalive_s, self.max_keepalive_s),
            ("idle_s", self.min_idle_s, self.max_idle_s),
        ] {
            if !(1..=LONGEST_TTL_S).contains(&max) {
                let what = format!("is {max}; allowed are 1 to {LONGEST_TTL_S}");
                faults.add(format!("lease.max_{name}"), what);
            }
            if !(1..=max).contains(&min) {
                let what = format!("is {min}; allowed are 1 to {max} (`lease.max_{name}`)");
                faults.add(format!("lease.min_{name}"), what);
            }
        }
    }
}
