//! What the kernel holds the process of each machine to.

use serde::Deserialize;

use super::error::Faults;

/// Table `[hypervisor.control_groups]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlGroupsConfig {
    /// Whether each machine's QEMU is put into a control group of its own.
    pub enabled: bool,
    /// What a QEMU may take besides its guest's memory, in MiB; without it, what the accelerator needs.
    pub memory_overhead_mib: Option<u32>,
    /// How many threads a QEMU may have.
    pub max_tasks: u32,
    /// Time on the processors besides that of the virtual ones, in hundredths of a processor.
    pub extra_cpu_percent: u32,
}

/// Less and QEMU itself would not fit.
const LEAST_OVERHEAD_MIB: u32 = 128;
/// QEMU has up to 64 threads for its disk alone.
const LEAST_TASKS: u32 = 96;

impl Default for ControlGroupsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            memory_overhead_mib: None,
            max_tasks: 256,
            extra_cpu_percent: 100,
        }
    }
}

impl ControlGroupsConfig {
    pub(super) fn validate(&self, faults: &mut Faults) {
        let mut at_least = |key: &str, value: u32, least: u32, what: &str| {
            if value < least {
                faults.add(
                    format!("hypervisor.control_groups.{key}"),
                    format!("is {value}; {what}: at least {least} are needed"),
                );
            }
        };
        if let Some(overhead) = self.memory_overhead_mib {
            let what = "QEMU itself would be ended for want of memory";
            at_least("memory_overhead_mib", overhead, LEAST_OVERHEAD_MIB, what);
        }
        let what = "QEMU would find no thread for its disk";
        at_least("max_tasks", self.max_tasks, LEAST_TASKS, what);
    }
}
