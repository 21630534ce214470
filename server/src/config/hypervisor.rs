//! How VMs are run.

use serde::Deserialize;

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
    /// Whether machines are cloned from templates; without, every machine boots.
    pub templates: bool,
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
            templates: true,
        }
    }
}

impl HypervisorConfig {
    pub(super) fn validate(&self, faults: &mut Faults) {
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
