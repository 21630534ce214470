//! Whether the files of an image are still the ones that were checked. A rebuilt image takes the place
//! of the old one under the same name; VMs and templates of a running server must not mix the two.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::ImageError;
use crate::hypervisor::ImageFiles;

/// The files of an image as they were when it was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen(Vec<(PathBuf, Stamp)>);

/// What changes when a file is replaced or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
}

impl Seen {
    /// Notes the files as they are now.
    ///
    /// # Errors
    /// When one cannot be looked at.
    pub fn of(files: &ImageFiles) -> Result<Self, ImageError> {
        [&files.disk, &files.kernel, &files.initrd]
            .into_iter()
            .map(|path| Ok((path.clone(), stamp(path)?)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Checks that the files are still those. Takes microseconds.
    ///
    /// # Errors
    /// [`ImageError::Replaced`] for the first that is another one, [`ImageError::Unreadable`] for one
    /// that is gone.
    pub fn check(&self) -> Result<(), ImageError> {
        for (path, seen) in &self.0 {
            if stamp(path)? != *seen {
                return Err(ImageError::Replaced { path: path.clone() });
            }
        }
        Ok(())
    }
}

fn stamp(path: &Path) -> Result<Stamp, ImageError> {
    let metadata = std::fs::metadata(path).map_err(|source| ImageError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    Ok(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified_ns: i128::from(metadata.mtime()) * 1_000_000_000
            + i128::from(metadata.mtime_nsec()),
    })
}
