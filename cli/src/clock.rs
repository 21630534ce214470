//! The clock of this machine. It is compared with the server's and with nothing else: what lasts for a
//! while is measured by the event loop's own.

use time::OffsetDateTime;

/// The time on this machine.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the clock is read"
)]
pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
