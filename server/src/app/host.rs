//! How much of the host machines may have, where the configuration leaves that to the host.

use std::io;
use std::path::Path;

use super::AppError;
use crate::config::Config;

/// The part of the host's available memory that VMs may take when the configuration does not say.
const MEMORY_SHARE_PERCENT: u64 = 80;

/// The part of the disk that stays free when the configuration does not say, in percent.
const DISK_RESERVE_PERCENT: u64 = 5;

/// And the most of it, in bytes. It is what guests can write between two looks at the disk, with
/// room; those that find no space all the same wait for it.
const LARGEST_DISK_RESERVE: u64 = 2 << 30;

/// Memory that all VMs together may have, in MiB.
///
/// # Errors
/// When neither the configuration nor the system tells.
pub(crate) fn memory_budget_mib(config: &Config) -> Result<u64, AppError> {
    match config.limits.memory_budget_mib {
        Some(mib) => Ok(mib),
        None => {
            let available = available_memory_mib().map_err(AppError::Memory)?;
            Ok(available * MEMORY_SHARE_PERCENT / 100)
        }
    }
}

/// How much of the file system of `folder`, the state folder, VMs leave free, in bytes.
///
/// # Errors
/// When neither the configuration nor the system tells.
pub(crate) fn disk_reserve_bytes(config: &Config, folder: &Path) -> Result<u64, AppError> {
    match config.limits.disk_reserve_mib {
        Some(mib) => Ok(mib.saturating_mul(1 << 20)),
        None => {
            let disk = nix::sys::statvfs::statvfs(folder);
            let disk = disk.map_err(|error| AppError::Disk(error.into()))?;
            let size = disk.blocks().saturating_mul(disk.fragment_size());
            Ok((size / 100 * DISK_RESERVE_PERCENT).min(LARGEST_DISK_RESERVE))
        }
    }
}

/// What the kernel says is available to new programs, in MiB.
///
/// # Errors
/// When it does not say.
pub(crate) fn available_memory_mib() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    text.lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map(|kib| kib / 1024)
        .ok_or_else(|| io::Error::other("/proc/meminfo has no MemAvailable"))
}
