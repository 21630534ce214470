//! How VMs are run.

use serde::Deserialize;

use super::control_groups::ControlGroupsConfig;
use super::error::Faults;

/// Table `[hypervisor]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HypervisorConfig {
    /// libvirt's address, `qemu:///system`; without it, libvirt runs inside the server, with its
    /// files in the state folder.
    pub uri: Option<String>,
    /// How guests' instructions are carried out.
    pub accelerator: AcceleratorChoice,
    /// Whether machines may run machines of their own.
    pub nested: bool,
    /// Whether machines are cloned from templates; without, every machine boots.
    pub templates: bool,
    /// Which users QEMU runs as.
    pub qemu_uids: QemuUids,
    /// What the kernel holds them to.
    pub control_groups: ControlGroupsConfig,
}

/// Which users QEMU runs as. In the file: `"auto"`, `"shared"`, or numbers such as `"200000-200999"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum QemuUids {
    /// One for each machine, out of numbers that nobody gives out.
    Auto,
    /// One for all machines.
    Shared,
    /// One for each machine, out of these, both ends included.
    Range {
        /// The first.
        first: u32,
        /// The last.
        last: u32,
    },
}

/// Numbers below belong to the system's own users.
const FIRST_UID: u32 = 1000;

impl TryFrom<String> for QemuUids {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "auto" => return Ok(Self::Auto),
            "shared" => return Ok(Self::Shared),
            _ => {}
        }
        let numbers = text.split_once('-').and_then(|(first, last)| {
            Some((
                first.trim().parse::<u32>().ok()?,
                last.trim().parse::<u32>().ok()?,
            ))
        });
        match numbers {
            // The highest number means "no user".
            Some((first, last)) if first >= FIRST_UID && first <= last && last < u32::MAX => {
                Ok(Self::Range { first, last })
            }
            _ => Err(format!(
                "expected \"auto\", \"shared\", or two user ids from {FIRST_UID} on with a hyphen between, \
                 such as \"200000-200999\""
            )),
        }
    }
}

/// Which accelerator to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AcceleratorChoice {
    /// KVM where the processor has hardware virtualization, else QEMU's translator.
    Auto,
    /// KVM or nothing.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl Default for HypervisorConfig {
    fn default() -> Self {
        Self {
            uri: None,
            accelerator: AcceleratorChoice::Auto,
            nested: false,
            templates: true,
            qemu_uids: QemuUids::Auto,
            control_groups: ControlGroupsConfig::default(),
        }
    }
}

impl HypervisorConfig {
    pub(super) fn validate(&self, max_vms: u16, faults: &mut Faults) {
        if let QemuUids::Range { first, last } = self.qemu_uids
            && last - first + 1 < u32::from(max_vms)
        {
            faults.add(
                "hypervisor.qemu_uids",
                format!(
                    "are {} user ids, fewer than the {max_vms} machines of `limits.max_vms`; \
                     \"{first}-{}\" is enough",
                    last - first + 1,
                    u64::from(first) + u64::from(max_vms) - 1
                ),
            );
        }
        self.control_groups.validate(faults);
        let Some(uri) = &self.uri else { return };
        // Machines, files and taps are on this host: no other one will do.
        if uri != "qemu:///system" {
            faults.add(
                "hypervisor.uri",
                format!("is `{uri}`; allowed is `qemu:///system`, or leave it out"),
            );
        }
    }
}
