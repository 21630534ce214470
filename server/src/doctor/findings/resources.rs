//! What is found about disk, memory, time and ports.

use super::super::facts::{Disk, Memory, Ports};
use super::super::report::{Finding, Verdict};

/// The clock may be so far off before it matters, in milliseconds.
const CLOCK_LIMIT_MS: i64 = 1000;

pub(super) fn disk(disk: &Result<Disk, String>, image_bytes: u64) -> Finding {
    const NAME: &str = "disk";
    let disk = match disk {
        Ok(disk) => disk,
        Err(reason) => return Finding::failed(NAME, reason),
    };
    let (free, reserve, image) = (disk.free >> 20, disk.reserve >> 20, image_bytes >> 20);
    let what = format!("{free} MiB are free where the state folder is, {reserve} are to stay free");
    let hint =
        "make room, choose another disk with `--state-dir`, or lower `limits.disk_reserve_mib`";
    if disk.free < disk.reserve {
        Finding::failed(NAME, format!("{what}: no machine is started")).hint(hint)
    } else if disk.free - disk.reserve < image_bytes {
        let what = format!("{what}: what is left is less than one image takes ({image} MiB)");
        Finding::warning(NAME, what).hint(hint)
    } else {
        Finding::ok(NAME, what)
    }
}

pub(super) fn memory(memory: &Result<Memory, String>, server_runs: bool) -> Finding {
    const NAME: &str = "memory";
    let memory = match memory {
        Ok(memory) => memory,
        Err(reason) => {
            return Finding::failed(NAME, reason).hint("set `limits.memory_budget_mib`");
        }
    };
    let Memory {
        available, budget, ..
    } = memory;
    let what = format!("machines may have {budget} MiB together, {available} are available now");
    let too_large: Vec<&str> = memory
        .sizes
        .iter()
        .filter(|(_, needed)| *needed > budget)
        .map(|(name, _)| name.as_str())
        .collect();
    // While a server runs its machines have part of what was available when it started.
    let is_telling = memory.is_configured || !server_runs;
    let hint = "add memory, or make `sizes` or `limits.memory_budget_mib` fit";
    if is_telling && !too_large.is_empty() {
        let verdict = if too_large.contains(&memory.default_size.as_str()) {
            Verdict::Failed
        } else {
            Verdict::Warning
        };
        let sizes = too_large.join(", ");
        let what = format!("{what}: no machine of size {sizes} can start");
        Finding::new(NAME, verdict, what).hint(hint)
    } else if memory.is_configured && budget > available && !server_runs {
        let hint = "when all of them use what they may, the kernel ends some: lower \
                    `limits.memory_budget_mib`";
        Finding::warning(NAME, what).hint(hint)
    } else {
        Finding::ok(NAME, what)
    }
}

pub(super) fn clock(clock: &Result<Option<i64>, String>) -> Finding {
    const NAME: &str = "clock";
    let hint = "certificates are good from the time of this clock on, and clients compare it with \
                theirs: keep it right, for example with chrony";
    match clock {
        Err(reason) => Finding::warning(NAME, reason),
        Ok(None) => {
            let what = "the kernel does not know of anything that keeps it right";
            Finding::warning(NAME, what).hint(hint)
        }
        Ok(Some(error_ms)) if *error_ms > CLOCK_LIMIT_MS => {
            let what = format!("it is kept right, but may be {error_ms} ms off");
            Finding::warning(NAME, what).hint(hint)
        }
        Ok(Some(error_ms)) => Finding::ok(NAME, format!("at most {error_ms} ms off")),
    }
}

/// A server that runs has its ports itself.
pub(super) fn ports(ports: &Ports, server_runs: bool) -> Vec<Finding> {
    let (address, fault) = &ports.api;
    let api = match fault {
        None => Finding::ok("api port", format!("{address} is free")),
        Some(_) if server_runs => Finding::ok("api port", format!("{address}; a server runs")),
        Some(reason) => Finding::failed("api port", format!("{address} cannot be had: {reason}"))
            .hint("stop who listens there, or choose another address with `--listen`"),
    };
    let range = &ports.relay;
    let relay = match &ports.taken {
        None => Finding::ok("relay ports", format!("{range} are free")),
        Some((taken, _)) if server_runs => {
            let what = format!("{range}; {taken} are in use, a server runs");
            Finding::ok("relay ports", what)
        }
        Some((taken, reason)) => {
            let what = format!("{taken} of {range} cannot be had: {reason}");
            let finding = if *taken == ports.count {
                Finding::failed("relay ports", what)
            } else {
                Finding::warning("relay ports", what)
            };
            finding
                .hint("leases do not get these: set `relay.listen_ip` or `relay.ports` to others")
        }
    };
    vec![api, relay]
}
