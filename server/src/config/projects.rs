//! Who shares the server, and how much of it each may have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use remote_docker_api::Egress;
use serde::Deserialize;

use super::error::Faults;
use super::{EgressOffer, LeaseConfig, SizeConfig};

/// The project of whoever has the operator's token, the file `token` in the state folder.
pub const DEFAULT_PROJECT: &str = "default";

/// Table `[projects.NAME]`. Leases of one project are not there for another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProjectConfig {
    /// How many of its leases have a machine at a time; others wait.
    pub max_leases: Option<u32>,
    /// Memory of those machines together, in MiB.
    pub max_memory_mib: Option<u64>,
    /// How long a lease of it lasts at most, in seconds.
    pub max_ttl_s: Option<u32>,
    /// The sizes that it may ask for. Without `default_size` among them, the first is its default.
    pub sizes: Option<Vec<String>>,
    /// The most open network policy that it may ask for.
    pub egress: Option<Egress>,
    /// What older versions had; still known so that it can be told what is in its place.
    token_file: Option<PathBuf>,
}

impl ProjectConfig {
    /// Whether it may ask for a size of this name and with so much memory.
    #[must_use]
    pub fn allows_size(&self, name: &str, memory_mib: u32) -> bool {
        let named = self.sizes.as_ref();
        named.is_none_or(|sizes| sizes.iter().any(|size| size == name))
            && self.has_memory_for(memory_mib)
    }

    fn has_memory_for(&self, memory_mib: u32) -> bool {
        self.max_memory_mib
            .is_none_or(|most| u64::from(memory_mib) <= most)
    }
}

pub(super) fn validate(
    projects: &BTreeMap<String, ProjectConfig>,
    sizes: &BTreeMap<String, SizeConfig>,
    lease: &LeaseConfig,
    offer: &EgressOffer,
    faults: &mut Faults,
) {
    for (name, project) in projects {
        let key = format!("projects.{name}");
        if !is_project_name(name) {
            faults.add(
                key.clone(),
                "is no name for a project: use 1 to 64 lower-case letters, digits, `-`, `_` and \
                 `.`",
            );
        }
        if project.token_file.is_some() {
            faults.add(
                format!("{key}.token_file"),
                format!(
                    "is not known any more: delete the line, and make a token with `remote-dockerd \
                     token create NAME --project {name}`"
                ),
            );
        }
        if project.max_leases == Some(0) {
            faults.add(
                format!("{key}.max_leases"),
                "must be at least 1; to lock a project out, revoke its tokens",
            );
        }
        match project.max_ttl_s {
            Some(0) => faults.add(format!("{key}.max_ttl_s"), "must be at least 1"),
            Some(most) if most > lease.max_ttl_s => faults.add(
                format!("{key}.max_ttl_s"),
                format!("is more than `lease.max_ttl_s`, {}", lease.max_ttl_s),
            ),
            _ => {}
        }
        if let Some(most) = project.egress
            && !offer.offered.contains(&most)
        {
            faults.add(
                format!("{key}.egress"),
                format!(
                    "is \"{most}\", which can never be met: `network.egress` does not offer it; name one of \
                     those that it does: {}",
                    offer.words()
                ),
            );
        }
        validate_sizes(&key, project, sizes, faults);
    }
}

/// A size that could never be had is told now and not to the first who asks for it.
fn validate_sizes(
    key: &str,
    project: &ProjectConfig,
    offered: &BTreeMap<String, SizeConfig>,
    faults: &mut Faults,
) {
    let most = project.max_memory_mib.unwrap_or_default();
    let Some(named) = &project.sizes else {
        let fits = |size: &SizeConfig| project.has_memory_for(size.memory_mib);
        if !offered.is_empty() && !offered.values().any(fits) {
            faults.add(
                format!("{key}.max_memory_mib"),
                format!("is {most}, and no machine size needs so little: raise it, or offer a smaller size"),
            );
        }
        return;
    };
    let key = format!("{key}.sizes");
    if named.is_empty() {
        faults.add(
            key.clone(),
            "must name a size, such as `[\"small\"]`; leave it out to allow all",
        );
    }
    let mut seen = BTreeSet::new();
    for name in named {
        if !seen.insert(name) {
            faults.add(key.clone(), format!("names `{name}` twice"));
        }
        match offered.get(name) {
            None => {
                let offered: Vec<&str> = offered.keys().map(String::as_str).collect();
                let offered = offered.join(", ");
                faults.add(
                    key.clone(),
                    format!("names `{name}`, which is not on offer; there are: {offered}"),
                );
            }
            Some(size) if !project.has_memory_for(size.memory_mib) => faults.add(
                key.clone(),
                format!(
                    "names `{name}`, whose {} MiB are more than the project's `max_memory_mib`, {most}",
                    size.memory_mib
                ),
            ),
            Some(_) => {}
        }
    }
}

fn is_project_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
}
