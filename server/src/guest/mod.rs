//! The server's end of the channel to the agent inside a guest.
//!
//! Whatever comes from a guest may come from a hostile tenant: frames are bounded in length, in
//! number and in time, and a guest that breaks a bound is no longer listened to. It costs that VM,
//! never the server.

mod directory;
mod drift;
mod error;
mod identity;
mod link;
mod shortage;
mod text;

pub use directory::{Ask, AskError, Guests};
pub use drift::correction;
pub use error::GuestError;
pub use identity::{Identity, check as check_identity, ssh_host_key};
pub use link::{Link, Occurrence};
pub use shortage::{disk as disk_shortage, memory as memory_shortage};
pub use text::{printable, printable_lines};
