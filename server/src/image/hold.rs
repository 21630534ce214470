//! Images that a running server uses must stay. Whoever uses one holds a shared lock on its manifest, and
//! who clears one away takes the lock for itself first. A lock goes with its process, however that ends.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{ImageError, manifest};

/// A lock on an image, until the last of its copies is dropped.
#[derive(Debug, Clone)]
pub struct Hold {
    _lock: Arc<Flock<File>>,
}

impl Hold {
    /// Holds the image in `folder`, as many may at a time.
    ///
    /// # Errors
    /// When its manifest cannot be opened: somebody may have cleared it away in this moment.
    pub(super) fn take(folder: &Path) -> Result<Self, ImageError> {
        let lock = lock(folder, FlockArg::LockShared)?;
        // Whoever had it may have removed it.
        open(folder)?;
        Ok(Self {
            _lock: Arc::new(lock),
        })
    }

    /// Holds it alone; `None` when somebody else holds it.
    ///
    /// # Errors
    /// When its manifest cannot be opened.
    pub(super) fn alone(folder: &Path) -> Result<Option<Self>, ImageError> {
        match lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Self {
                _lock: Arc::new(lock),
            })),
            Err(ImageError::Unreadable { source, .. })
                if source.kind() == ErrorKind::WouldBlock =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn open(folder: &Path) -> Result<File, ImageError> {
    let path = folder.join(manifest::FILE);
    manifest::regular(&path).map_err(|source| ImageError::Unreadable { path, source })
}

fn lock(folder: &Path, how: FlockArg) -> Result<Flock<File>, ImageError> {
    let mut file = open(folder)?;
    loop {
        file = match Flock::lock(file, how) {
            Ok(lock) => return Ok(lock),
            // A signal came while it waited.
            Err((file, Errno::EINTR)) => file,
            Err((_, errno)) => {
                return Err(ImageError::Unreadable {
                    path: folder.join(manifest::FILE),
                    source: errno.into(),
                });
            }
        }
    }
}
