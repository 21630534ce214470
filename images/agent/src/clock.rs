//! The guest's clocks, read and set at this one place.

use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Time since the kernel started; in a clone, time that the template ran is part of it.
pub(crate) fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// As [`since_boot`], some milliseconds behind. It is read out of memory whatever the kernel's clock
/// is, where the exact one may cost a trip to an emulated device.
pub(crate) fn coarse_since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from)
}

/// The wall clock in nanoseconds since 1970 (UTC).
///
/// # Errors
/// The kernel's, or a clock before 1970.
pub(crate) fn unix_time_ns() -> anyhow::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_REALTIME)?;
    Ok(u64::try_from(now.tv_sec())? * SECOND_NS + u64::try_from(now.tv_nsec())?)
}

/// Sets the wall clock.
///
/// # Errors
/// The kernel's.
pub(crate) fn set_unix_time_ns(unix_time_ns: u64) -> anyhow::Result<()> {
    let time = TimeSpec::new(
        i64::try_from(unix_time_ns / SECOND_NS)?,
        i64::try_from(unix_time_ns % SECOND_NS)?,
    );
    Ok(clock_settime(ClockId::CLOCK_REALTIME, time)?)
}
