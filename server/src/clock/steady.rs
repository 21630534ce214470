//! Server time: counted from the host's boot, which nobody can set.
//!
//! When the host booted, in server time, is written down once for each boot. So a server that starts
//! again goes on with the time of the one before, whatever became of the host's clock meanwhile: the
//! deadlines in its rows are neither early nor late. After a reboot server time begins anew as wall
//! time; no machine outlives that, so no deadline of one is left to be missed.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::{Clock, HostClocks, SystemClock};

/// A smaller difference between the two times is none: what shows of it nobody minds.
const TOLERANCE: Duration = Duration::SECOND;

/// Two readings that are further apart say nothing about each other: the process stood still between
/// them.
const GLANCE: std::time::Duration = std::time::Duration::from_millis(100);

/// Server time, which goes on as if nobody ever set the host's clock.
#[derive(Debug)]
pub struct SteadyClock<H = SystemClock> {
    host: H,
    /// When the host booted, in server time.
    booted_at: OffsetDateTime,
    /// How far wall time is ahead. Held while the clocks are read, so that an old reading is never
    /// taken for news.
    ahead: Mutex<Duration>,
}

/// What is written down for each boot.
#[derive(Debug, Serialize, Deserialize)]
struct Boot {
    boot_id: String,
    #[serde(with = "time::serde::rfc3339")]
    booted_at: OffsetDateTime,
}

impl<H: HostClocks> SteadyClock<H> {
    /// The server time that is written down in this file, if that was in this run of the host; else
    /// one that begins as wall time now, and is written down.
    ///
    /// It never fails: without the file deadlines are kept as well, only not if the host's clock is set
    /// while no server runs. That is logged.
    #[must_use]
    pub fn open(file: &Path, host: H) -> Self {
        let boot_id = host.boot_id();
        let known = read(file).filter(|boot| Some(&boot.boot_id) == boot_id.as_ref());
        let booted_at = match &known {
            Some(boot) => boot.booted_at,
            None => host.wall().saturating_sub(signed(host.since_boot())),
        };
        if let (None, Some(boot_id)) = (known, boot_id) {
            write(file, &Boot { boot_id, booted_at });
        }
        let clock = Self {
            host,
            booted_at,
            ahead: Mutex::new(Duration::ZERO),
        };
        // Says so if the host's clock was set since the host booted.
        clock.now();
        clock
    }
}

impl<H: HostClocks> Clock for SteadyClock<H> {
    fn now(&self) -> OffsetDateTime {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.host.since_boot();
        let wall = self.host.wall();
        let since_boot = self.host.since_boot();
        let now = self.booted_at.saturating_add(signed(since_boot));
        let seen = wall - now;
        if since_boot.saturating_sub(before) <= GLANCE && (seen - *ahead).abs() >= TOLERANCE {
            let by = seen - std::mem::replace(&mut *ahead, seen);
            let by_ms = i64::try_from(by.whole_milliseconds()).unwrap_or(i64::MAX);
            let direction = if by.is_positive() { "ahead" } else { "back" };
            tracing::warn!(
                by_ms,
                "the host's clock was set {direction} by {} s: leases last as long as they would have, \
                 and the moments that are told of them are other ones now",
                by.abs().whole_seconds()
            );
        }
        now
    }

    fn ahead(&self) -> Duration {
        *self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn signed(duration: std::time::Duration) -> Duration {
    Duration::try_from(duration).unwrap_or(Duration::MAX)
}

/// What is written down; nothing where it cannot be read or is something else, which is logged.
fn read(file: &Path) -> Option<Boot> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            unknown(file, &error);
            return None;
        }
    };
    match serde_json::from_slice(&text) {
        Ok(boot) => Some(boot),
        Err(error) => {
            unknown(file, &error);
            None
        }
    }
}

fn unknown(file: &Path, error: &(dyn std::error::Error + 'static)) {
    tracing::warn!(
        error,
        "{} cannot be read: should the host's clock have been set since the host booted, leases of an \
         earlier server end as much too early or too late",
        file.display()
    );
}

/// Writes it down all at once, so that a crash leaves the file as it was or as it is to be.
fn write(file: &Path, boot: &Boot) {
    let written = (|| {
        let text = serde_json::to_vec(boot)?;
        let new = file.with_extension("new");
        let mut options = std::fs::OpenOptions::new();
        let options = options.create(true).truncate(true).write(true).mode(0o600);
        options.open(&new)?.write_all(&text)?;
        std::fs::rename(&new, file)
    })();
    if let Err(error) = written {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "{} cannot be written: should the host's clock be set while no server runs, the next one \
             ends leases as much too early or too late",
            file.display()
        );
    }
}

#[cfg(test)]
mod tests;
