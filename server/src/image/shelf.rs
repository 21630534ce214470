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

/// What lies in the folder of the images.
#[derive(Debug)]
pub struct Shelf {
    /// Those of which it is known what they are, in the order of their names.
    pub images: Vec<Entry>,
    /// Those whose manifest is of no use.
    pub damaged: Vec<Damaged>,
}

/// An image of which it cannot be told what it is.
#[derive(Debug)]
pub struct Damaged {
    /// The name of its folder.
    pub name: String,
    /// Why not.
    pub fault: ImageError,
}

/// All images in `folder`, in the order of their names.
///
/// # Errors
/// When the folder or a manifest in it cannot be read, and when there is no such folder.
pub fn entries(folder: &Path) -> Result<Vec<Entry>, ImageError> {
    let mut shelf = look(folder)?;
    if shelf.damaged.is_empty() {
        Ok(shelf.images)
    } else {
        // Which engine it has is not known, so nobody can tell who would miss it.
        Err(shelf.damaged.swap_remove(0).fault)
    }
}

/// Everything in `folder` that is meant to be an image.
///
/// # Errors
/// When there is no such folder, or it cannot be read.
pub fn look(folder: &Path) -> Result<Shelf, ImageError> {
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
    let mut shelf = Shelf {
        images: Vec::new(),
        damaged: Vec::new(),
    };
    for folder in folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let name = name.into_owned();
        match read(folder) {
            Ok(entry) => shelf.images.push(entry),
            Err(fault) => shelf.damaged.push(Damaged { name, fault }),
        }
    }
    Ok(shelf)
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
