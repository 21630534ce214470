//! Space for what has to be written when the disk is full: that leases end and VMs go, which is what
//! frees the disk. Guests write until nothing is left, so the space must be the database's own before.
//!
//! Blocks are given to SQLite's files beyond their ends, which SQLite neither sees nor gives back
//! while the files are open: the next bytes that it appends find them there.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{FallocateFlags, fallocate};

/// For the write-ahead log, in bytes. It begins anew when it has 12 MiB, or 20 and the longest transaction, which
/// is 8, at most (`keeper.rs`), unless a reader is in the way.
const LOG: u64 = 32 << 20;

/// For the database itself, in bytes beyond its end: some thousand leases.
const DATABASE: u64 = 4 << 20;

/// For the index of the log, in bytes: 32 KiB for every 16 MiB of log, and its head.
const INDEX: u64 = 96 << 10;

/// The files, which are kept open: closing any descriptor of a file gives up all locks that this
/// process has on it, SQLite's included, and another process would take the database for unused.
#[derive(Debug)]
pub(super) struct Reserve {
    parts: Mutex<[Part; 3]>,
    told: AtomicBool,
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    /// How much it is to have, in bytes: in all, or beyond its end.
    wanted: u64,
    beyond: bool,
    file: Option<Arc<File>>,
}

impl Reserve {
    /// Nothing is set aside yet.
    pub(super) fn new(database: &Path) -> Self {
        let part = |suffix: &str, wanted, beyond| {
            let mut name = OsString::from(database);
            name.push(suffix);
            Part {
                path: name.into(),
                wanted,
                beyond,
                file: None,
            }
        };
        Self {
            parts: Mutex::new([
                part("-wal", LOG, false),
                part("-shm", INDEX, false),
                part("", DATABASE, true),
            ]),
            told: AtomicBool::new(false),
        }
    }

    /// Sets aside what is missing. When there is no space for it the database is no worse off than
    /// without; it is tried again at the next call.
    pub(super) fn top_up(&self) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        for part in parts.iter_mut() {
            if let Err(error) = part.top_up()
                && !self.told.swap(true, Ordering::Relaxed)
            {
                tracing::warn!(
                    %error,
                    "no space can be set aside for {}: when the disk is full, leases may not end",
                    part.path.display()
                );
            }
        }
    }
}

impl Reserve {
    /// Has what was written into the database brought to the disk. Nothing depends on it: SQLite does the same
    /// before it counts on it, and finds little to do then.
    pub(super) fn flush(&self) {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let database = parts.iter().find(|part| part.beyond);
        let file = database.and_then(|part| part.file.clone());
        // Whoever sets space aside need not wait for the disk.
        drop(parts);
        if let Some(file) = file {
            let _ = file.sync_data();
        }
    }
}

impl Part {
    /// Gives blocks to the file. Its length stays.
    fn top_up(&mut self) -> io::Result<()> {
        let there = match std::fs::metadata(&self.path) {
            Ok(there) => there,
            // There is no log before something is written.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let same = |file: &Arc<File>| {
            let held = file.metadata();
            held.is_ok_and(|held| (held.dev(), held.ino()) == (there.dev(), there.ino()))
        };
        let file = match self.file.take().filter(same) {
            Some(file) => file,
            None => Arc::new(OpenOptions::new().write(true).open(&self.path)?),
        };
        let length = if self.beyond { there.len() } else { 0 };
        let end = i64::try_from(length + self.wanted).unwrap_or(i64::MAX);
        let done = fallocate(&*file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, end);
        self.file = Some(file);
        Ok(done?)
    }
}
