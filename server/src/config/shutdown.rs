//! What a server does with its leases when it is told to stop.

use std::time::Duration;

use serde::Deserialize;

use super::error::Faults;

/// No lease lasts longer.
const LONGEST_DRAIN_S: u32 = 31 * 24 * 3600;

/// Table `[shutdown]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShutdownConfig {
    /// How many seconds leases may go on once the server is told to stop, before it ends them and
    /// destroys all machines. Without it machines of active leases stay, for the server's next start.
    pub drain_s: Option<u32>,
}

impl ShutdownConfig {
    /// How long leases may go on; none if they stay for the next start.
    #[must_use]
    pub fn drain(&self) -> Option<Duration> {
        self.drain_s
            .map(|seconds| Duration::from_secs(seconds.into()))
    }

    pub(super) fn validate(&self, faults: &mut Faults) {
        if let Some(seconds) = self.drain_s
            && seconds > LONGEST_DRAIN_S
        {
            let what = format!("is {seconds}; allowed are 0 to {LONGEST_DRAIN_S}");
            faults.add("shutdown.drain_s", what);
        }
    }
}
