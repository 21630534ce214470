//! Which accelerator to use. `/dev/kvm` alone proves little: some hosts have one that runs special
//! guests only, and ordinary ones hang under it. The processor's flags tell.

use super::{Accelerator, HypervisorError};

/// What the operator wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorChoice {
    /// KVM where it works, else software emulation.
    #[default]
    Auto,
    /// KVM, or an error.
    Kvm,
    /// Software emulation.
    Tcg,
}

/// What `/dev/kvm` is to the user that QEMU runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KvmDevice {
    Missing,
    Denied,
    Usable,
}

/// The choice, and what the operator should hear about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) accelerator: Accelerator,
    pub(super) warning: Option<String>,
}

/// Chooses by the wish, the text of `/proc/cpuinfo` and the device.
///
/// # Errors
/// When KVM is demanded and cannot be had.
pub(super) fn choose(
    choice: AcceleratorChoice,
    cpuinfo: &str,
    device: KvmDevice,
    qemu_user: &str,
) -> Result<Chosen, HypervisorError> {
    let obstacle = if !has_hardware_virtualization(cpuinfo) {
        Some(
            "the processor offers no hardware virtualization (neither flag vmx nor svm): switch it \
             on in the firmware, or, if this host is itself a VM, switch on nested virtualization"
                .to_owned(),
        )
    } else {
        match device {
            KvmDevice::Usable => None,
            KvmDevice::Missing => {
                Some("there is no /dev/kvm: load the module kvm_intel or kvm_amd".to_owned())
            }
            KvmDevice::Denied => Some(format!(
                "user {qemu_user} may not open /dev/kvm: let it, for example with `chgrp kvm \
                 /dev/kvm && chmod 660 /dev/kvm`"
            )),
        }
    };
    match (choice, obstacle) {
        (AcceleratorChoice::Auto | AcceleratorChoice::Kvm, None) => Ok(Chosen {
            accelerator: Accelerator::Kvm,
            warning: None,
        }),
        (AcceleratorChoice::Kvm, Some(obstacle)) => Err(HypervisorError::Unsuitable(format!(
            "KVM is demanded but cannot be used: {obstacle}"
        ))),
        (AcceleratorChoice::Auto, Some(obstacle)) => Ok(Chosen {
            accelerator: Accelerator::Tcg,
            warning: Some(format!(
                "VMs run under software emulation, some ten times slower: {obstacle}"
            )),
        }),
        (AcceleratorChoice::Tcg, _) => Ok(Chosen {
            accelerator: Accelerator::Tcg,
            warning: Some(
                "VMs run under software emulation, some ten times slower, because the \
                 configuration says so"
                    .to_owned(),
            ),
        }),
    }
}

/// Where the kernel tells whether its guests may have guests.
const NESTED: [&str; 2] = [
    "/sys/module/kvm_intel/parameters/nested",
    "/sys/module/kvm_amd/parameters/nested",
];

/// Why guests cannot run machines of their own, though they are to.
pub(super) fn why_not_nested(accelerator: Accelerator) -> Option<String> {
    let settings = NESTED.map(|path| std::fs::read_to_string(path).ok());
    let settings: Vec<String> = settings.into_iter().flatten().collect();
    let is_off = accelerator == Accelerator::Kvm && !settings.iter().any(|text| is_on(text));
    is_off.then(|| {
        "machines cannot run machines of their own, though `hypervisor.nested` is true: load kvm_intel or kvm_amd \
         with `nested=1`"
            .to_owned()
    })
}

/// Both forms are in use.
fn is_on(setting: &str) -> bool {
    matches!(setting.trim(), "Y" | "1")
}

/// Model name of the first processor in `/proc/cpuinfo`.
pub(super) fn cpu_model(cpuinfo: &str) -> String {
    field(cpuinfo, "model name").unwrap_or("unknown").to_owned()
}

/// What a guest sees of the host's processor, in words that differ when its features do. QEMU's
/// translator shows what it can do itself, whatever the host's processor is.
pub(super) fn seen_by_guests(accelerator: Accelerator, cpuinfo: &str) -> &str {
    match accelerator {
        Accelerator::Kvm => field(cpuinfo, "flags").unwrap_or_default(),
        Accelerator::Tcg => "",
    }
}

fn has_hardware_virtualization(cpuinfo: &str) -> bool {
    field(cpuinfo, "flags").is_some_and(|flags| {
        flags
            .split_whitespace()
            .any(|flag| ["vmx", "svm"].contains(&flag))
    })
}

fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then_some(value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpuinfo(flags: &str) -> String {
        format!(
            "processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nflags\t\t: fpu {flags} lm\nbugs\t:\n"
        )
    }

    #[test]
    fn the_kernels_two_words_for_yes() {
        assert!(is_on("Y\n") && is_on("1\n"));
        assert!(!is_on("N\n") && !is_on("0\n") && !is_on(""));
        // Emulated processors have all that QEMU can do.
        assert_eq!(why_not_nested(Accelerator::Tcg), None);
    }

    #[test]
    fn kvm_needs_flag_and_device() {
        use AcceleratorChoice::Auto;
        use KvmDevice::{Denied, Missing, Usable};
        for (flags, device, kvm) in [
            ("vmx", Usable, true),
            ("svm", Usable, true),
            ("", Usable, false),
            ("vmx_fake svmx", Usable, false),
            ("vmx", Missing, false),
            ("svm", Denied, false),
        ] {
            let chosen = choose(Auto, &cpuinfo(flags), device, "q").unwrap();
            assert_eq!(
                chosen.accelerator == Accelerator::Kvm,
                kvm,
                "{flags} {device:?}"
            );
            assert_eq!(chosen.warning.is_none(), kvm, "slowness is never silent");
        }
    }

    #[test]
    fn a_demand_is_met_or_refused() {
        let refused = |flags, device| {
            choose(AcceleratorChoice::Kvm, &cpuinfo(flags), device, "qemu-user")
                .unwrap_err()
                .to_string()
        };
        assert!(refused("", KvmDevice::Usable).contains("vmx"));
        assert!(refused("vmx", KvmDevice::Missing).contains("kvm_intel"));
        assert!(refused("vmx", KvmDevice::Denied).contains("qemu-user"));
        let chosen = choose(
            AcceleratorChoice::Tcg,
            &cpuinfo("vmx"),
            KvmDevice::Usable,
            "q",
        )
        .unwrap();
        assert_eq!(chosen.accelerator, Accelerator::Tcg);
    }

    #[test]
    fn the_model_is_read() {
        assert_eq!(cpu_model(&cpuinfo("")), "Some CPU @ 2.00GHz");
        assert_eq!(cpu_model(""), "unknown");
    }
}
