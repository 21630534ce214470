//! Machine sizes, how machines are kept, and how much of the host all of them together may use.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::Faults;

/// A guest with less does not start its Docker daemon reliably.
const SMALLEST_MIB: u32 = 512;
/// QEMU's machine type `q35` ends here without further devices.
const MOST_VCPUS: u32 = 255;
/// Addresses of a /16 without its first and last, and without the gateway.
const MOST_VMS: u16 = 65_000;

/// What is to be there for longer without being asked for is a pool.
const LONGEST_SPARE_S: u32 = 3600;
/// A machine that is asked less often is long dead, or its clock wrong, before anybody knows.
const SELDOMEST_WATCH_S: u32 = 60;

/// Table `[sizes.NAME]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeConfig {
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
}

pub(super) fn default_sizes() -> BTreeMap<String, SizeConfig> {
    let size = |vcpus, memory_mib| SizeConfig { vcpus, memory_mib };
    BTreeMap::from([
        ("small".to_owned(), size(2, 1024)),
        ("large".to_owned(), size(4, 4096)),
    ])
}

pub(super) fn validate_aliases(aliases: &BTreeMap<String, String>, faults: &mut Faults) {
    for (alias, engine) in aliases {
        let key = format!("engine_aliases.{alias}");
        if alias == "default" {
            faults.add(
                key,
                "is the default engine in any case; choose that with `default_engine`",
            );
        } else if !is_name(alias) {
            faults.add(
                key,
                "is no name for an engine: use 1 to 32 lower-case letters, digits, `-`, `_` and `.`, such \
                 as `edge`",
            );
        } else if engine.is_empty() {
            faults.add(key, "must name an engine, such as \"28\"");
        }
    }
}

pub(super) fn validate_sizes(
    sizes: &BTreeMap<String, SizeConfig>,
    default_size: &str,
    limits: &LimitsConfig,
    faults: &mut Faults,
) {
    for (name, size) in sizes {
        let key = format!("sizes.{name}");
        if !is_name(name) {
            faults.add(
                key.clone(),
                "is no name for a size: use 1 to 32 lower-case letters, digits, `-`, `_` and `.`",
            );
        }
        if !(1..=MOST_VCPUS).contains(&size.vcpus) {
            let what = format!("is {}; allowed are 1 to {MOST_VCPUS}", size.vcpus);
            faults.add(format!("{key}.vcpus"), what);
        }
        if size.memory_mib < SMALLEST_MIB {
            let what = format!("is {}; a guest needs {SMALLEST_MIB}", size.memory_mib);
            faults.add(format!("{key}.memory_mib"), what);
        }
        if let Some(budget) = limits.memory_budget_mib
            && u64::from(size.memory_mib) > budget
        {
            let what = format!(
                "is {}, more than `limits.memory_budget_mib` = {budget}: no such machine could \
                 ever start",
                size.memory_mib
            );
            faults.add(format!("{key}.memory_mib"), what);
        }
    }
    if !sizes.contains_key(default_size) {
        let names: Vec<&str> = sizes.keys().map(String::as_str).collect();
        let what = format!(
            "is `{default_size}`, which `sizes` does not have ({})",
            if names.is_empty() {
                "it is empty".to_owned()
            } else {
                format!("it has: {}", names.join(", "))
            }
        );
        faults.add("default_size", what);
    }
}

fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
}

/// Table `[machines]`. All values are seconds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachinesConfig {
    /// How long a machine is kept for the next request that was made for one that is not there any more.
    pub spare_s: u32,
    /// How often a machine is asked how it is.
    pub watch_every_s: u32,
}

impl Default for MachinesConfig {
    fn default() -> Self {
        Self {
            spare_s: 60,
            watch_every_s: 15,
        }
    }
}

impl MachinesConfig {
    pub(super) fn validate(&self, faults: &mut Faults) {
        if self.spare_s > LONGEST_SPARE_S {
            let what = format!("is {}; allowed are 0 to {LONGEST_SPARE_S}", self.spare_s);
            faults.add("machines.spare_s", what);
        }
        if !(1..=SELDOMEST_WATCH_S).contains(&self.watch_every_s) {
            let what = format!(
                "is {}; allowed are 1 to {SELDOMEST_WATCH_S}",
                self.watch_every_s
            );
            faults.add("machines.watch_every_s", what);
        }
    }
}

/// Table `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Memory that all machines together may have, in MiB. Without it, a share of what the host
    /// has available when the server starts.
    pub memory_budget_mib: Option<u64>,
    /// How many machines there may be at a time, whatever their size.
    pub max_vms: u16,
    /// How much of the state folder's disk is to stay free, in MiB. Below it no machine is started,
    /// and the one that wrote most is given up. Without it, 5 % of the file system and at most 2 GiB.
    pub disk_reserve_mib: Option<u64>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            memory_budget_mib: None,
            max_vms: 100,
            disk_reserve_mib: None,
        }
    }
}

impl LimitsConfig {
    pub(super) fn validate(&self, faults: &mut Faults) {
        if !(1..=MOST_VMS).contains(&self.max_vms) {
            let what = format!("is {}; allowed are 1 to {MOST_VMS}", self.max_vms);
            faults.add("limits.max_vms", what);
        }
    }
}
