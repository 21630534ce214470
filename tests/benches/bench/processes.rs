//! What the kernel counts for processes.

use std::fs;

use nix::unistd::{Pid, SysconfVar, sysconf};

/// A line of `/proc/PID/smaps_rollup` or `status` in MiB, such as that of `Pss:`.
pub(crate) fn mib(pid: Pid, file: &str, name: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the process");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.expect("the kernel's account of memory") / 1024.0
}

/// Memory that nobody else has, in MiB.
pub(crate) fn private_mib(pid: Pid) -> f64 {
    let of = |name| mib(pid, "smaps_rollup", name);
    of("Private_Clean:") + of("Private_Dirty:")
}

/// Processor time that a process has used so far, in seconds, to a hundredth or so.
pub(crate) fn processor_s(pid: Pid) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process");
    // The name before it is in brackets and may hold anything.
    let (_, fields) = text.rsplit_once(')').expect("a name in brackets");
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a number of ticks"))
        .sum();
    let each = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    ticks as f64 / each.expect("ticks of a second") as f64
}
