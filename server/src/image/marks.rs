//! What is known of an image beside what it is: small files beside its folder, so that nothing ever writes
//! into an image.
//!
//! `NAME.tested` says that a machine of it was leased and used on this host, `NAME.retired` that it is not
//! to be used for new machines. Each holds for the image with the digest that stands in it, and for no other
//! that may get the same name later.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::private_file;

/// What can be noted of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It passed its test on this host.
    Tested,
    /// It is not to be used any more.
    Retired,
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    digest: String,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
}

impl Mark {
    fn beside(self, image: &Path) -> PathBuf {
        let mut name = OsString::from(image);
        name.push(match self {
            Self::Tested => ".tested",
            Self::Retired => ".retired",
        });
        name.into()
    }

    /// When the image in the folder `image`, whose digest is this, got the mark; `None` if it has none. One
    /// that cannot be read counts as none.
    #[must_use]
    pub fn of(self, image: &Path, digest: &str) -> Option<OffsetDateTime> {
        let (text, _) = private_file::read(&self.beside(image)).ok()??;
        let note: Note = serde_json::from_str(&text).ok()?;
        (note.digest == digest).then_some(note.at)
    }

    /// Gives it the mark.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn set(self, image: &Path, digest: &str, at: OffsetDateTime) -> std::io::Result<()> {
        let digest = digest.to_owned();
        let text = serde_json::to_string(&Note { digest, at })?;
        private_file::write(&self.beside(image), &text, 0o644)
    }

    /// Takes it away, if it has it.
    ///
    /// # Errors
    /// When it is still there.
    pub fn remove(self, image: &Path) -> std::io::Result<()> {
        match std::fs::remove_file(self.beside(image)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_holds_for_one_image_and_not_for_the_next_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("docker-26-0123");
        let at = OffsetDateTime::UNIX_EPOCH;
        assert_eq!(Mark::Tested.of(&image, "a"), None);
        Mark::Tested.set(&image, "a", at).unwrap();
        assert_eq!(Mark::Tested.of(&image, "a"), Some(at));
        assert_eq!(Mark::Retired.of(&image, "a"), None);
        assert_eq!(Mark::Tested.of(&image, "b"), None);
        std::fs::write(folder.path().join("docker-26-0123.tested"), "{").unwrap();
        assert_eq!(Mark::Tested.of(&image, "a"), None);
        Mark::Tested.remove(&image).unwrap();
        Mark::Tested.remove(&image).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
