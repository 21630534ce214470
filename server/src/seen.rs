//! Whether files are still the ones that were checked. A rebuilt image takes the place of the old one under
//! the same name, and a disk may lose a bit; VMs of a running server must never get a mixture.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files as they were when they were checked.
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

/// A file is not the one that was checked.
#[derive(Debug, thiserror::Error)]
pub enum NotSeen {
    /// It was replaced or written to.
    #[error("{path} was replaced or changed after this server had checked it", path = path.display())]
    Other {
        /// Which.
        path: PathBuf,
    },
    /// It cannot be looked at.
    #[error("cannot read {path}", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

impl Seen {
    /// Notes the files as they are now. To be called before their content is checked, so that one that is
    /// replaced meanwhile is noticed at its first use.
    ///
    /// # Errors
    /// When one cannot be looked at.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<Self, NotSeen> {
        paths
            .into_iter()
            .map(|path| Ok((path.clone(), stamp(path)?)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Checks that the files are still those. Takes microseconds.
    ///
    /// # Errors
    /// For the first that is another one or is gone.
    pub fn check(&self) -> Result<(), NotSeen> {
        for (path, seen) in &self.0 {
            if stamp(path)? != *seen {
                return Err(NotSeen::Other { path: path.clone() });
            }
        }
        Ok(())
    }
}

fn stamp(path: &Path) -> Result<Stamp, NotSeen> {
    let metadata = std::fs::metadata(path).map_err(|source| NotSeen::Unreadable {
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
