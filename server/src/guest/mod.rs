//! The server's end of the channel to the agent inside a guest.
//!
//! Whatever comes from a guest may come from a hostile tenant: frames are bounded in length, in
//! number and in time, and a guest that breaks a bound is given up. It costs that VM, never the
//! server.

mod error;
mod identity;
mod link;

pub use error::GuestError;
pub use identity::{Identity, check as check_identity};
pub use link::{Link, Occurrence};

/// A guest's words, cut and without what could disturb a terminal or a log.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .take(120)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
