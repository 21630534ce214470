//! What a machine's QEMU may take at most, and how that is said to the kernel. Pure.

use super::mounts::{Controller, Version};
use crate::hypervisor::{Accelerator, GroupLimits, VmSpec};

/// How long the kernel counts before it looks whether a group has had its time, in microseconds.
const PERIOD_US: u64 = 100_000;
/// The weight of a group that says nothing, which is that of one busy process, in version 1 and in version 2.
const WEIGHT: (u64, u64) = (1024, 100);
/// The most that the kernel takes.
const MOST_WEIGHT: (u64, u64) = (262_144, 10_000);

/// What QEMU needs beyond the guest's memory, in MiB. Measured on machines that took all they could get
/// (`a_machine_that_takes_all_it_can_get`): with its translator it keeps up to 1 GiB of translated code. What is
/// left is for its devices, and for the page cache of the machine's disk, which the kernel charges to the group
/// and takes back before it would end anybody for want of memory.
const OVERHEAD_KVM_MIB: u32 = 512;
const OVERHEAD_TCG_MIB: u32 = 1536;

/// The bounds of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hypervisor) struct Bounds {
    /// Its memory; `None` where files are memory too (tmpfs), so that the machine's disk would count.
    pub(super) memory_bytes: Option<u64>,
    /// Its threads.
    pub(super) pids: u32,
    /// How many processors it weighs as much as.
    pub(super) vcpus: u32,
    /// Time on the processors, in hundredths of one.
    pub(super) cpu_percent: u32,
}

impl Bounds {
    /// Those of a machine, where files are not memory.
    pub(in crate::hypervisor) fn of(
        spec: &VmSpec,
        accelerator: Accelerator,
        limits: &GroupLimits,
    ) -> Self {
        let overhead = limits.memory_overhead_mib.unwrap_or(match accelerator {
            Accelerator::Kvm => OVERHEAD_KVM_MIB,
            Accelerator::Tcg => OVERHEAD_TCG_MIB,
        });
        Self {
            memory_bytes: Some((u64::from(spec.memory_mib) + u64::from(overhead)) << 20),
            pids: limits.max_tasks,
            vcpus: spec.vcpus,
            // The devices have threads of their own.
            cpu_percent: spec
                .vcpus
                .saturating_mul(100)
                .saturating_add(limits.extra_cpu_percent),
        }
    }

    /// Some that any kernel takes, to find out whether it takes bounds at all.
    pub(super) fn anything() -> Self {
        Self {
            memory_bytes: Some(1 << 30),
            pids: 64,
            vcpus: 1,
            cpu_percent: 100,
        }
    }

    /// The same without a bound on memory.
    pub(in crate::hypervisor) fn without_memory(self) -> Self {
        let memory_bytes = None;
        Self {
            memory_bytes,
            ..self
        }
    }

    /// What is to be written besides, where the kernel counts what is swapped out: that is no way around the
    /// bound on memory.
    pub(super) fn settings_with_swap(
        &self,
        version: Version,
        controller: Controller,
    ) -> Option<(&'static str, String)> {
        let bytes = self
            .memory_bytes
            .filter(|_| controller == Controller::Memory)?;
        Some(match version {
            // Memory and swap together.
            Version::One => ("memory.memsw.limit_in_bytes", bytes.to_string()),
            Version::Two => ("memory.swap.max", "0".to_owned()),
        })
    }

    /// What is to be written to which files of a machine's group.
    pub(super) fn settings(
        &self,
        version: Version,
        controller: Controller,
    ) -> Vec<(&'static str, String)> {
        let quota = u64::from(self.cpu_percent) * PERIOD_US / 100;
        match (controller, version) {
            (Controller::Memory, _) => {
                let file = match version {
                    Version::One => "memory.limit_in_bytes",
                    Version::Two => "memory.max",
                };
                let bytes = self.memory_bytes.map(|bytes| (file, bytes.to_string()));
                bytes.into_iter().collect()
            }
            (Controller::Pids, _) => vec![("pids.max", self.pids.to_string())],
            (Controller::Cpu, Version::One) => vec![
                weight(version, self.vcpus),
                ("cpu.cfs_period_us", PERIOD_US.to_string()),
                ("cpu.cfs_quota_us", quota.to_string()),
            ],
            (Controller::Cpu, Version::Two) => vec![
                weight(version, self.vcpus),
                ("cpu.max", format!("{quota} {PERIOD_US}")),
            ],
        }
    }
}

/// How a group says that it weighs as much as so many busy processes.
pub(super) fn weight(version: Version, processes: u32) -> (&'static str, String) {
    let of = |each: u64, most: u64| (each * u64::from(processes.max(1))).min(most).to_string();
    match version {
        Version::One => ("cpu.shares", of(WEIGHT.0, MOST_WEIGHT.0)),
        Version::Two => ("cpu.weight", of(WEIGHT.1, MOST_WEIGHT.1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        memory_bytes: Some(2 << 30),
        pids: 256,
        vcpus: 2,
        cpu_percent: 300,
    };

    fn said(bounds: Bounds, version: Version) -> Vec<String> {
        let of = |controller| bounds.settings(version, controller);
        let all = Controller::ALL.into_iter().flat_map(of);
        all.map(|(file, value)| format!("{file} {value}")).collect()
    }

    #[test]
    fn bounds_are_said_in_the_words_of_each_version() {
        assert_eq!(
            said(BOUNDS, Version::One),
            [
                "memory.limit_in_bytes 2147483648",
                "pids.max 256",
                "cpu.shares 2048",
                "cpu.cfs_period_us 100000",
                "cpu.cfs_quota_us 300000",
            ]
        );
        assert_eq!(
            said(BOUNDS.without_memory(), Version::Two),
            ["pids.max 256", "cpu.weight 200", "cpu.max 300000 100000"]
        );
    }

    #[test]
    fn no_weight_is_more_than_the_kernel_takes() {
        assert_eq!(weight(Version::One, 0).1, "1024");
        assert_eq!(weight(Version::One, 4096).1, "262144");
        assert_eq!(weight(Version::Two, 4096).1, "10000");
    }
}
