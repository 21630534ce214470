//! The file. Whoever rotates it may rename it or cut it off; nobody needs to be told.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The audit log on disk.
#[derive(Debug)]
pub struct AuditFile {
    path: PathBuf,
    open: Option<File>,
}

impl AuditFile {
    /// The one at this path. It is opened when something is to be written, and made if there is none.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file, so that what is wrong with it shows.
    ///
    /// # Errors
    /// When it cannot be had or is no regular file.
    pub fn open(&mut self) -> Result<()> {
        self.current().map(|_| ())
    }

    /// Appends these lines, in one piece as far as the system does it so. Each ends with a newline.
    ///
    /// # Errors
    /// When they were not written in full. A piece of a line may be there then; what is written next begins
    /// on a line of its own.
    pub fn append(&mut self, lines: &str) -> Result<()> {
        let written = self.current()?.write_all(lines.as_bytes());
        if written.is_err() {
            // Opened again, it is looked at how it ends.
            self.open = None;
        }
        written
    }

    /// The file that the path names now: the one that was open may have been renamed.
    fn current(&mut self) -> Result<&mut File> {
        let is_there = |open: &File| {
            let (ours, there) = (open.metadata()?, std::fs::symlink_metadata(&self.path)?);
            Ok::<_, Error>((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
        };
        if !self
            .open
            .as_ref()
            .is_some_and(|open| is_there(open).unwrap_or(false))
        {
            self.open = None;
        }
        match &mut self.open {
            Some(open) => Ok(open),
            none => Ok(none.insert(open(&self.path)?)),
        }
    }
}

/// Opens the file for appending, after a line that is complete.
fn open(path: &Path) -> Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}
