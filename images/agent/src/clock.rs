//! The guest's clocks, read and set at this one place.

use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;

/// More than this is set at once: it would take the kernel a quarter of an hour to make up for it.
const MOST_SLEWED_NS: u64 = SECOND_NS / 2;

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

/// Moves the wall clock. A little, it only goes faster or slower for a while, so that nothing happens before
/// what came before it; much, it is set.
///
/// # Errors
/// The kernel's, or a moment before 1970.
pub(crate) fn move_by(by_ns: i64) -> anyhow::Result<()> {
    if by_ns.unsigned_abs() <= MOST_SLEWED_NS {
        return slew(by_ns);
    }
    let now = unix_time_ns()?;
    let then = now.checked_add_signed(by_ns);
    set_unix_time_ns(then.context("there was no time then")?)
}

/// The kernel makes up for half a millisecond in a second, whatever it was told before.
fn slew(by_ns: i64) -> anyhow::Result<()> {
    // SAFETY: all zeros are a value of this structure of numbers.
    let mut order: libc::timex = unsafe { std::mem::zeroed() };
    order.modes = libc::ADJ_OFFSET_SINGLESHOT;
    order.offset = by_ns / 1000;
    // SAFETY: the structure outlives the call, which keeps no pointer to it.
    Errno::result(unsafe { libc::adjtimex(&raw mut order) })?;
    Ok(())
}
