//! How much of the network one machine may take.

use serde::Deserialize;

use super::error::Faults;

/// Table `[network.limits]`. Each is for one machine; what is more is dropped. The host's kernel follows every
/// connection in a table that all share: without limits one machine could fill it. Builds that download as
/// fast as they can stay far below the built-in values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineLimits {
    /// Connections to the outside that are followed at a time, UDP's and those that ended a moment ago among
    /// them.
    pub connections: u32,
    /// New ones in a second, in the long run.
    pub new_per_s: u32,
    /// New ones that may come at once.
    pub new_burst: u32,
    /// Packets that it may send in a second.
    pub packets_per_s: u32,
}

impl Default for MachineLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            new_per_s: 500,
            new_burst: 2000,
            packets_per_s: 200_000,
        }
    }
}

impl MachineLimits {
    pub(super) fn validate(&self, faults: &mut Faults) {
        for (name, value) in [
            ("connections", self.connections),
            ("new_per_s", self.new_per_s),
            ("new_burst", self.new_burst),
            ("packets_per_s", self.packets_per_s),
        ] {
            if value == 0 {
                faults.add(
                    format!("network.limits.{name}"),
                    "must be at least 1; for machines that reach nothing there is the policy \"none\"",
                );
            }
        }
    }
}
