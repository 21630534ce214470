//! A certificate in files of the operator's, read again when they change: who renews it, such as a client of
//! Let's Encrypt, need not restart the server.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::{Material, TlsError, material};

/// More than any chain or key has.
const MAX_BYTES: u64 = 256 * 1024;

/// The two files.
#[derive(Debug)]
pub(super) struct Given {
    cert: PathBuf,
    key: PathBuf,
    /// How they were when they were last read and found good.
    seen: [Option<Identity>; 2],
}

/// What differs when a file was replaced or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Given {
    /// Reads both.
    pub(super) fn open(cert: PathBuf, key: PathBuf) -> Result<(Self, Material), TlsError> {
        let mut given = Self {
            cert,
            key,
            seen: [None; 2],
        };
        let material = given.read()?;
        Ok((given, material))
    }

    /// Reads both again if one has changed. While they do not fit together, because one of them is replaced
    /// after the other, this fails, and the next look tries again.
    pub(super) fn look(&mut self, _now: OffsetDateTime) -> Result<Option<Material>, TlsError> {
        let now = [&self.cert, &self.key]
            .map(|path| std::fs::metadata(path).ok().map(|it| Identity::of(&it)));
        if now == self.seen {
            return Ok(None);
        }
        self.read().map(Some)
    }

    fn read(&mut self) -> Result<Material, TlsError> {
        let (chain, chain_seen) = read(&self.cert)?;
        let (key, key_seen) = read(&self.key)?;
        let material = material(&chain, &key).map_err(|what| TlsError::Malformed {
            cert: self.cert.clone(),
            key: self.key.clone(),
            what,
        })?;
        self.seen = [Some(chain_seen), Some(key_seen)];
        Ok(material)
    }
}

impl Identity {
    fn of(facts: &Metadata) -> Self {
        Self {
            device: facts.dev(),
            inode: facts.ino(),
            bytes: facts.size(),
            modified: (facts.mtime(), facts.mtime_nsec()),
            changed: (facts.ctime(), facts.ctime_nsec()),
        }
    }
}

fn read(path: &Path) -> Result<(Vec<u8>, Identity), TlsError> {
    let unreadable = |source| TlsError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    // Before the text: what is written to it meanwhile is seen as a change by the next look.
    let seen = Identity::of(&file.metadata().map_err(unreadable)?);
    let mut text = Vec::new();
    file.take(MAX_BYTES)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    Ok((text, seen))
}
