//! What lies in the folder of the images, without reading more of it than the manifests.

use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::choice::Candidate;
use super::manifest::{self, Manifest};
use super::{ImageError, Mark};

/// An image on this host.
#[derive(Debug)]
pub struct Entry {
    /// Its folder.
    pub folder: PathBuf,
    /// What decides whether it is used.
    pub candidate: Candidate,
    /// The engine's full version.
    pub engine_version: String,
    /// Version of the protocol that its agent speaks.
    pub protocol: u32,
    /// Digest of what it holds.
    pub digest: String,
    /// Size in bytes of what machines are made of.
    pub bytes: u64,
}

impl Entry {
    /// Whether this server can talk to its machines.
    #[must_use]
    pub fn speaks_our_protocol(&self) -> bool {
        manifest::is_spoken(self.protocol)
    }
}

/// All images in `folder`, in the order of their names.
///
/// # Errors
/// When the folder or a manifest in it cannot be read, and when there is no such folder.
pub fn entries(folder: &Path) -> Result<Vec<Entry>, ImageError> {
    let entries = std::fs::read_dir(folder).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => ImageError::None {
            folder: folder.to_owned(),
        },
        _ => unreadable(folder, source),
    })?;
    let mut folders: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        // What is half-made ends in `.new` or `.old`.
        .filter(|path| path.extension().is_none() && path.join(manifest::FILE).is_file())
        .collect();
    folders.sort();
    folders.into_iter().map(read).collect()
}

pub(super) fn read(folder: PathBuf) -> Result<Entry, ImageError> {
    let manifest = Manifest::read(&folder)?;
    let path = folder.join(manifest::FILE);
    let written = std::fs::metadata(&path).and_then(|file| file.modified());
    let since = written.map_err(|source| unreadable(&path, source))?;
    let digest = manifest.digest();
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    Ok(Entry {
        candidate: Candidate {
            name: name.into_owned(),
            since: OffsetDateTime::from(since),
            tested: Mark::Tested.of(&folder, &digest),
            retired: Mark::Retired.of(&folder, &digest).is_some(),
            engine: manifest.engine.clone(),
        },
        bytes: manifest.bytes(),
        protocol: manifest.agent_protocol,
        engine_version: manifest.engine_version,
        digest,
        folder,
    })
}

fn unreadable(path: &Path, source: std::io::Error) -> ImageError {
    ImageError::Unreadable {
        path: path.to_owned(),
        source,
    }
}
