//! Where time and randomness come from. Everything else takes them as arguments, so that tests can
//! choose them.
//!
//! There are two times. **Server time**, [`Clock::now`], is what deadlines are kept in and what stands
//! in the rows: it begins as what the host's clock shows and goes on with the real one, also when the
//! host's clock is set. **Wall time**, [`Clock::wall`], is what the host's clock shows: it stands in
//! certificates, guests' clocks are set to it, calendars go by it, and people and clients are told
//! moments in it. Server time never goes back; wall time may do anything.

#[cfg(test)]
pub(crate) mod hands;
mod steady;

use time::{Duration, OffsetDateTime};

pub use steady::SteadyClock;

/// The two times and nothing else of a server.
pub trait Clock: Send + Sync + 'static {
    /// The present moment in server time (UTC).
    fn now(&self) -> OffsetDateTime;

    /// How far wall time is ahead of server time; less than nothing where it is behind. It stays the
    /// same from one setting of the host's clock to the next, so that what is shown of one moment is
    /// always the same.
    fn ahead(&self) -> Duration {
        Duration::ZERO
    }

    /// The present moment in wall time (UTC).
    fn wall(&self) -> OffsetDateTime {
        self.now().saturating_add(self.ahead())
    }
}

/// The clocks of a host.
pub trait HostClocks: Send + Sync + 'static {
    /// The clock that can be set (UTC).
    fn wall(&self) -> OffsetDateTime;

    /// How long the host has run, times of suspension included. Nobody can set that.
    fn since_boot(&self) -> std::time::Duration;

    /// A name for this run of the host; `None` when it has none.
    fn boot_id(&self) -> Option<String>;
}

/// The system's clocks. By itself it is a [`Clock`] on which server time is whatever the host's clock
/// shows: good enough for what keeps no deadlines.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        HostClocks::wall(self)
    }
}

impl HostClocks for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    fn wall(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    fn since_boot(&self) -> std::time::Duration {
        // It has been there since Linux 2.6.39, and reading it cannot fail otherwise.
        let since_boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
        since_boot.map_or(std::time::Duration::ZERO, std::time::Duration::from)
    }

    fn boot_id(&self) -> Option<String> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(id.trim().to_owned()).filter(|id| !id.is_empty())
    }
}

/// Fills an array from the system's random source.
///
/// # Errors
/// When the system has none to give, which on Linux happens only before the kernel's generator is
/// seeded.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
