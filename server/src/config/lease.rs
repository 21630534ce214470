//! How long leases last and requests wait.

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
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            default_ttl_s: 3600,
            max_ttl_s: 86_400,
            default_wait_s: 120,
            max_wait_s: 600,
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
    }
}
