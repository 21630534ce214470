//! Reads and checks images.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::manifest::{self, Manifest};
use super::{Hold, Image, ImageError, choice, shelf};
use crate::hypervisor::ImageFiles;
use crate::seen::Seen;

/// Reads and checks the images in `folder` that are used, one for each engine, in the order of the engines'
/// names. Blocks for seconds, as it reads every byte of them.
///
/// # Errors
/// On the first image that cannot be used, and when there is none.
pub fn load_all(folder: &Path) -> Result<Vec<Image>, ImageError> {
    let entries = shelf::entries(folder)?;
    let usable = entries.iter().filter(|it| it.speaks_our_protocol());
    let candidates: Vec<_> = usable.map(|it| it.candidate.clone()).collect();
    let used = choice::in_use(&candidates);
    if used.is_empty() {
        let other = |it: &&shelf::Entry| !it.speaks_our_protocol() && !it.candidate.retired;
        return Err(match entries.iter().find(other) {
            Some(other) => ImageError::Protocol {
                path: other.folder.join(manifest::FILE),
                found: other.protocol,
            },
            None if !entries.is_empty() => ImageError::AllRetired {
                folder: folder.to_owned(),
            },
            None => ImageError::None {
                folder: folder.to_owned(),
            },
        });
    }
    used.iter().map(|it| load(&folder.join(&it.name))).collect()
}

/// Reads and checks the image in `folder`.
pub(super) fn load(folder: &Path) -> Result<Image, ImageError> {
    // Before the check, so that nobody takes away what was found good.
    let hold = Hold::take(folder)?;
    // Disks of templates and machines name it, by whatever links it was found.
    let place = folder.canonicalize();
    let folder = &place.map_err(|source| ImageError::Unreadable {
        path: folder.to_owned(),
        source,
    })?;
    let manifest = Manifest::read(folder)?;
    let files = ImageFiles {
        disk: folder.join(manifest::DISK),
        kernel: folder.join(manifest::KERNEL),
        initrd: folder.join(manifest::INITRD),
    };
    // Before the check, so that a file that is replaced during it is noticed at the first use.
    let seen = Seen::of(files.all())?;
    for (name, expected) in manifest.parts() {
        check_file(&folder.join(name), expected)?;
    }
    Ok(Image {
        digest: manifest.digest(),
        engine: manifest.engine,
        engine_version: manifest.engine_version,
        files,
        seen,
        hold,
    })
}

fn check_file(path: &Path, expected: &manifest::FileEntry) -> Result<(), ImageError> {
    let unreadable = |source| ImageError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let changed = |what, found: String, expected: String| ImageError::Changed {
        path: path.to_owned(),
        what,
        found,
        expected,
    };
    let mut file = manifest::regular(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    if size != expected.size {
        return Err(changed("size", size.to_string(), expected.size.to_string()));
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).map_err(unreadable)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
    }
    let found = format!("{:x}", hash.finalize());
    if found != expected.sha256 {
        return Err(changed("sha256", found, expected.sha256.clone()));
    }
    Ok(())
}
