//! The machine that numbers are from.

use std::fmt;
use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::process::{bounded, succeed};

/// What a machine is like, as far as it matters for how fast it is.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Facts {
    /// Model of the processor.
    pub processor: String,
    /// How many of them.
    pub processors: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Version of the kernel.
    pub kernel: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Version of QEMU.
    pub qemu: String,
    /// Version of libvirt.
    pub libvirt: String,
    /// How many processes wanted a processor in the last minute.
    pub load: f64,
}

impl Facts {
    /// Looks at this machine.
    ///
    /// # Panics
    /// When QEMU or `uname` cannot be run.
    #[must_use]
    pub fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let qemu = succeed(bounded(Duration::from_secs(10), "qemu-system-x86_64").arg("--version"));
        let libraries = fs::read_dir("/usr/lib/x86_64-linux-gnu");
        let libraries = libraries.into_iter().flatten().flatten();
        let names = libraries.filter_map(|entry| entry.file_name().into_string().ok());
        Self {
            processor: processor(&cpuinfo).to_owned(),
            processors: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory_mib: memory_mib("MemTotal:"),
            kernel: succeed(Command::new("uname").arg("-r")),
            accelerator: accelerator(&cpuinfo, fs::exists("/dev/kvm").unwrap_or(false)).to_owned(),
            qemu: qemu_version(&qemu).to_owned(),
            libvirt: names
                .filter_map(|name| libvirt_version(&name))
                .next()
                .unwrap_or_else(|| "unknown".to_owned()),
            load: load(),
        }
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} x {}, {:.1} GiB, Linux {}, QEMU {} ({}), libvirt {}, load {:.2}",
            self.processors,
            self.processor,
            self.memory_mib as f64 / 1024.0,
            self.kernel,
            self.qemu,
            self.accelerator,
            self.libvirt,
            self.load
        )
    }
}

/// How many processes wanted a processor in the last minute.
#[must_use]
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().unwrap_or(f64::NAN)
}

/// A number of `/proc/meminfo`, such as that of `MemAvailable:`, in MiB.
///
/// # Panics
/// When the kernel does not tell.
#[must_use]
pub fn memory_mib(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("the kernel's account of memory");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("a number of /proc/meminfo") / 1024
}

fn processor(cpuinfo: &str) -> &str {
    let names = cpuinfo.lines().find_map(|line| {
        let rest = line.strip_prefix("model name")?;
        Some(rest.split_once(": ")?.1)
    });
    names.unwrap_or("unknown processor")
}

/// By the server's rule, when nothing is configured.
fn accelerator(cpuinfo: &str, has_device: bool) -> &'static str {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    let mut flags = flags.unwrap_or_default().split_whitespace();
    if has_device && flags.any(|flag| flag == "vmx" || flag == "svm") {
        "kvm"
    } else {
        "tcg"
    }
}

fn qemu_version(said: &str) -> &str {
    let (_, rest) = said.split_once("version ").unwrap_or_default();
    rest.split_whitespace().next().unwrap_or("unknown")
}

/// From the name of the library, which has the number of the release: `libvirt.so.0.11003.0`.
fn libvirt_version(file: &str) -> Option<String> {
    let number = file.strip_prefix("libvirt.so.0.")?;
    let (number, release) = number.split_once('.')?;
    let number: u32 = number.parse().ok()?;
    Some(format!("{}.{}.{release}", number / 1000, number % 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_there_is() {
        let said = "QEMU emulator version 10.0.2 (Debian 1:10.0.2)\nCopyright";
        assert_eq!(qemu_version(said), "10.0.2");
        assert_eq!(qemu_version("rubbish"), "unknown");
        assert_eq!(
            libvirt_version("libvirt.so.0.11003.0").as_deref(),
            Some("11.3.0")
        );
        assert_eq!(
            libvirt_version("libvirt.so.0.9000.0").as_deref(),
            Some("9.0.0")
        );
        for other in [
            "libvirt.so.0",
            "libvirt-qemu.so.0.11003.0",
            "libvirt.so.0.x.0",
        ] {
            assert_eq!(libvirt_version(other), None, "{other}");
        }
    }

    #[test]
    fn a_device_alone_is_no_accelerator() {
        let with = "model name\t: Some\nflags\t\t: fpu vmx sse\n";
        let without = "model name\t: Some\nflags\t\t: fpu sse\n";
        assert_eq!(accelerator(with, true), "kvm");
        assert_eq!(accelerator(with, false), "tcg");
        assert_eq!(accelerator(without, true), "tcg");
        assert_eq!(processor(with), "Some");
        assert_eq!(processor(""), "unknown processor");
    }
}
