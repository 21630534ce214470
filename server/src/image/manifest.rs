//! The manifest of an image, as far as the server needs it; people and tools may read more in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::ImageError;

/// The format that `images/build.sh` of this tree writes.
pub(super) const FORMAT: u32 = 1;

/// The manifest's own name in the image's folder.
pub(super) const FILE: &str = "manifest.json";

/// Its digest, in the format of `sha256sum`: what the manifest says of the other files is worth nothing if
/// it was damaged itself.
pub(super) const DIGEST_FILE: &str = "manifest.sha256";

/// No manifest is longer.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The root disk.
pub(super) const DISK: &str = "disk.qcow2";
/// The kernel.
pub(super) const KERNEL: &str = "vmlinuz";
/// The initial RAM disk.
pub(super) const INITRD: &str = "initrd.img";

/// Whether this is written as Debian writes versions: it is shown to people.
fn is_version(word: &str) -> bool {
    let plain = |it: char| it.is_ascii_alphanumeric() || ".+~:-".contains(it);
    (1..=64).contains(&word.len()) && word.chars().all(plain)
}

/// Whether this server can talk to an agent that speaks this version.
pub(super) fn is_spoken(version: u32) -> bool {
    (guest_protocol::OLDEST_VERSION..=guest_protocol::VERSION).contains(&version)
}

#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub(super) name: String,
    pub(super) engine: String,
    pub(super) engine_version: String,
    /// Version of the protocol that the image's agent speaks.
    pub(super) agent_protocol: u32,
    files: BTreeMap<String, FileEntry>,
}

/// Size in bytes and digest (hexadecimal) of a file.
#[derive(Debug, Deserialize)]
pub(super) struct FileEntry {
    pub(super) size: u64,
    pub(super) sha256: String,
}

impl Manifest {
    /// Reads that of the image in `folder`.
    pub(super) fn read(folder: &Path) -> Result<Self, ImageError> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let path = folder.join(FILE);
        let bytes = read(&path)?;
        let not_one = |source| ImageError::Manifest {
            path: path.clone(),
            source,
        };
        // The format first, so that a future manifest is called that and not malformed.
        let Versioned { format } = serde_json::from_slice(&bytes).map_err(not_one)?;
        if format != FORMAT {
            return Err(ImageError::Format {
                path,
                found: format,
            });
        }
        let expected = match read(&folder.join(DIGEST_FILE)) {
            Err(ImageError::Unreadable { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Err(ImageError::NoDigest { path });
            }
            read => read?,
        };
        let expected = String::from_utf8_lossy(&expected);
        let expected = expected.split_whitespace().next().unwrap_or_default();
        let found = format!("{:x}", Sha256::digest(&bytes));
        if found != expected {
            return Err(ImageError::Changed {
                path,
                what: "sha256",
                found,
                expected: expected.to_owned(),
            });
        }
        let manifest: Self = serde_json::from_slice(&bytes).map_err(not_one)?;
        for (key, word) in [
            ("engine", &manifest.engine),
            ("engine_version", &manifest.engine_version),
        ] {
            if !is_version(word) {
                return Err(ImageError::Word { path, key });
            }
        }
        if let Some(file) = [DISK, KERNEL, INITRD]
            .into_iter()
            .find(|name| !manifest.files.contains_key(*name))
        {
            return Err(ImageError::Incomplete { path, file });
        }
        Ok(manifest)
    }

    /// The files that a machine is made of.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&'static str, &FileEntry)> {
        [DISK, KERNEL, INITRD]
            .into_iter()
            .filter_map(|name| Some((name, self.files.get(name)?)))
    }

    /// Size of these files together, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.parts().map(|(_, file)| file.size).sum()
    }

    /// Digest of the content, not of the recipe: the same recipe gives other content when packages change,
    /// and a clone of a template whose disk is not this one would read a mixture of both.
    pub(super) fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for (name, file) in self.parts() {
            digest.update(format!("{name} {}\n", file.sha256));
        }
        format!("{:x}", digest.finalize())
    }
}

/// Reads a file that is small, whatever stands in its place.
fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    let read = || {
        let mut bytes = Vec::new();
        regular(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| ImageError::Unreadable {
        path: PathBuf::from(path),
        source,
    })
}

/// Opens a file without waiting for whoever is at the other end of what is none.
pub(super) fn regular(path: &Path) -> std::io::Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(std::io::Error::new(
            ErrorKind::InvalidInput,
            "it is not a regular file",
        ))
    }
}
