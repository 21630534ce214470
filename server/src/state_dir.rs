//! The server's folder on disk, and the proof that no other server uses it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// The state folder, held by this process until it is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

/// The state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// It cannot be made or written to.
    #[error(
        "cannot write to the state folder {path}: make it writable for this user, or choose another \
         one with `--state-dir`",
        path = path.display()
    )]
    NotWritable {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Another server runs on it.
    #[error(
        "another remote-dockerd uses the state folder {path}: stop it, or give this one a folder of \
         its own with `--state-dir`",
        path = path.display()
    )]
    Held {
        /// The folder.
        path: PathBuf,
    },
}

impl StateDir {
    /// Makes the folder where it is missing and takes it for this process.
    ///
    /// The folder itself may be traversed by others, because QEMU runs as a user of its own and must
    /// reach its VM's files; what is inside is protected one by one.
    ///
    /// # Errors
    /// When it is not writable, or another process holds it.
    pub fn take(path: &Path) -> Result<Self, StateDirError> {
        let not_writable = |source| StateDirError::NotWritable {
            path: path.to_owned(),
            source,
        };
        let held = || StateDirError::Held {
            path: path.to_owned(),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(path)
            .map_err(not_writable)?;
        let path_buf = path.canonicalize().map_err(not_writable)?;
        let lock_path = path_buf.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(not_writable)?;
        // A umask may have taken away what QEMU's user needs.
        let mode = std::fs::metadata(&path_buf)
            .map_err(not_writable)?
            .permissions()
            .mode();
        if mode & 0o001 == 0 {
            let wider = std::fs::Permissions::from_mode(mode | 0o011);
            std::fs::set_permissions(&path_buf, wider).map_err(not_writable)?;
        }
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            match std::io::Error::from(errno) {
                error if error.kind() == ErrorKind::WouldBlock => held(),
                error => not_writable(error),
            }
        })?;
        Ok(Self {
            path: path_buf,
            _lock: lock,
        })
    }

    /// Absolute path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of the database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.path.join("state.db")
    }

    /// Path of what server time begins with.
    #[must_use]
    pub fn clock(&self) -> PathBuf {
        self.path.join("clock.json")
    }

    /// Path of the operator's own token.
    #[must_use]
    pub fn token(&self) -> PathBuf {
        self.path.join("token")
    }

    /// Path of the book of tokens.
    #[must_use]
    pub fn tokens(&self) -> PathBuf {
        tokens_in(&self.path)
    }

    /// Path of the key of the leases' credentials.
    #[must_use]
    pub fn lease_key(&self) -> PathBuf {
        self.path.join("lease-key")
    }

    /// Folder of the templates.
    #[must_use]
    pub fn templates(&self) -> PathBuf {
        templates_in(&self.path)
    }
}

/// Folder of the templates in a state folder, for who only reads them.
#[must_use]
pub fn templates_in(folder: &Path) -> PathBuf {
    folder.join("templates")
}

/// Path of the book of tokens in a state folder, for who does not hold the folder: the book has a lock of
/// its own.
#[must_use]
pub fn tokens_in(folder: &Path) -> PathBuf {
    folder.join("tokens.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_serves_one_server_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep/state");
        let first = StateDir::take(&path).unwrap();
        assert!(matches!(
            StateDir::take(&path),
            Err(StateDirError::Held { .. })
        ));
        drop(first);
        StateDir::take(&path).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        // A file stands where the folder should be: refused even for root.
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = StateDir::take(&file.path().join("state")).unwrap_err();
        assert!(
            matches!(&error, StateDirError::NotWritable { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("--state-dir"), "{error}");
    }

    #[test]
    fn qemu_may_pass_through_and_others_may_not_read() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::take(&parent.path().join("state")).unwrap();
        let mode = std::fs::metadata(state.path())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0o011, "{mode:o}");
        let lock = std::fs::metadata(state.path().join("lock"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(lock & 0o077, 0, "{lock:o}");
    }
}
