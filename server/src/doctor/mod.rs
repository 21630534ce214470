//! Tells about a host what the server needs of it: looks at everything ([`gather`]), then judges what was seen
//! ([`findings`], [`firewall`]). A look that fails keeps no other from being taken.
//!
//! Nothing on the host is changed. What has to be made to see whether it can be made is made in network
//! namespaces without a name, and in a folder in `/run` that is removed again. No VM is started.

mod facts;
mod findings;
mod firewall;
mod gather;
mod report;
#[cfg(test)]
mod tests;

use std::path::Path;

use crate::config::{self, Overrides, Uplink};
use crate::words::in_one_line;

pub use report::{Finding, Verdict, is_well, json, text};

/// Looks at everything, for a server with this configuration file and these flags. Takes seconds, most of them
/// for comparing the images with their manifests and for libvirt's questions to QEMU.
pub async fn examine(file: Option<&Path>, overrides: Overrides) -> Vec<Finding> {
    let (settings, config) = match config::load(file, overrides.clone()) {
        Ok(config) => (
            Finding::ok("settings", "the configuration can be used"),
            config,
        ),
        Err(error) => {
            let finding = Finding::failed("settings", in_one_line(&error)).hint(
                "all that follows is about built-in values and flags; `remote-dockerd check-config` \
                 shows where the faults are",
            );
            (finding, config::without_file(overrides))
        }
    };
    let facts = gather::gather(&config).await;
    let has_uplink = config.network.uplink != Uplink::None;
    let mut findings = vec![settings];
    findings.extend(findings::judge(&facts, has_uplink));
    findings
}
