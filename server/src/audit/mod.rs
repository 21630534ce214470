//! Who asked for what, when, from where, and how it ended: JSON, a line for each, in a file that is only
//! ever appended to. No line has a secret, a key or a certificate in it.
//!
//! What happens to leases is written from the database (`keeper.rs`), where each event stands until it is in
//! the file: what could not be written, or was not before the server died, is written later. It may then be
//! there twice; `id` tells. What has no row in the database (a credential that was refused, a request that
//! made no lease) is written if it can be, and bounded: nobody fills the disk by knocking.

mod file;
mod keeper;
mod record;

#[cfg(test)]
mod tests;

pub use file::AuditFile;
pub use keeper::{Audit, Keeper};
pub use record::{Asked, Event, LeaseFact, Origin, Record};
