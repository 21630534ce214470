//! Guest images on this host: a folder each, with a manifest that `images/build.sh` wrote.
//!
//! An image is used only after its files were found to be what the manifest says. Nothing here ever
//! writes to an image. Of several that offer the same engine one is used ([`choice`]); the others stand by
//! until they are cleared away ([`gc`]).

pub mod choice;
pub mod command;
mod error;
pub mod gc;
mod hold;
mod import;
mod load;
mod manifest;
mod marks;
mod shelf;
mod smoke;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use crate::hypervisor::ImageFiles;
use crate::seen::Seen;

pub use error::ImageError;
pub use hold::Hold;
pub use import::{ImportError, Imported, import};
pub use load::load_all;
pub use marks::Mark;
pub use shelf::{Damaged, Entry, Shelf, entries, look};
pub use smoke::{Passed, SmokeError};

/// A guest image that was checked.
#[derive(Debug, Clone)]
pub struct Image {
    /// What requests call it: the engine's major version, such as `26`.
    pub engine: String,
    /// The engine's full version, such as `26.1.5+dfsg1`.
    pub engine_version: String,
    /// Digest of what it holds; changes whenever the image does.
    pub digest: String,
    /// Its files.
    pub files: ImageFiles,
    /// The very files that were checked.
    pub seen: Seen,
    /// Keeps it from being cleared away.
    pub hold: Hold,
}
