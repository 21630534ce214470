//! Guest images on this host: a folder each, with a manifest that `images/build.sh` wrote.
//!
//! An image is used only after its files were found to be what the manifest says. Nothing here ever
//! writes to an image.

mod manifest;
mod seen;

use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::hypervisor::ImageFiles;
use manifest::Manifest;

pub use seen::Seen;

/// A guest image that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What requests call it: the engine's major version, such as `26`.
    pub engine: String,
    /// The engine's full version, such as `26.1.5+dfsg1`.
    pub engine_version: String,
    /// Digest of recipe and inputs; changes whenever the image does.
    pub digest: String,
    /// Its files.
    pub files: ImageFiles,
    /// The very files that were checked.
    pub seen: Seen,
}

/// An image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The folder of the images is not there or holds none.
    #[error(
        "no image in {folder}: build one with `images/build.sh`, or set `images_dir` to where one is",
        folder = folder.display()
    )]
    None {
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The manifest is not one.
    #[error("{path} is not an image manifest: build the image again", path = path.display())]
    Manifest {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The manifest's format is of another time.
    #[error(
        "{path} has format {found} and this server reads format {known}: build the image again \
         with this server's sources",
        path = path.display(), known = manifest::FORMAT
    )]
    Format {
        /// Which.
        path: PathBuf,
        /// What it says.
        found: u32,
    },
    /// The manifest names no such file, though every image has one.
    #[error("{path} does not name `{file}`: build the image again", path = path.display())]
    Incomplete {
        /// The manifest.
        path: PathBuf,
        /// The missing file.
        file: &'static str,
    },
    /// A file is not what the manifest says: damaged, or changed by hand.
    #[error(
        "{path} is not the file that the manifest describes (its {what} is {found}, expected \
         {expected}): it was damaged or changed; build the image again",
        path = path.display()
    )]
    Changed {
        /// Which.
        path: PathBuf,
        /// `size` or `sha256`.
        what: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A file was put in the place of the one that was checked.
    #[error(
        "{path} was replaced after this server had checked it: start the server again, so that it \
         uses the new image",
        path = path.display()
    )]
    Replaced {
        /// Which.
        path: PathBuf,
    },
    /// Two images offer one engine.
    #[error("both {first} and {second} offer engine {engine}: remove one", first = first.display(), second = second.display())]
    Twice {
        /// The engine.
        engine: String,
        /// One folder.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
}

/// Reads and checks every image in `folder`, in the order of their folders' names. Blocks for
/// seconds, as it reads every byte.
///
/// # Errors
/// On the first image that cannot be used, and when there is none.
pub fn load_all(folder: &Path) -> Result<Vec<Image>, ImageError> {
    let none = || ImageError::None {
        folder: folder.to_owned(),
    };
    let entries = std::fs::read_dir(folder).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => none(),
        _ => ImageError::Unreadable {
            path: folder.to_owned(),
            source,
        },
    })?;
    let mut folders: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        // The builder's own leftovers end in `.new` and `.old`.
        .filter(|path| path.extension().is_none() && path.join("manifest.json").is_file())
        .collect();
    folders.sort();
    let mut images: Vec<(PathBuf, Image)> = Vec::new();
    for path in folders {
        let image = load(&path)?;
        if let Some((first, _)) = images
            .iter()
            .find(|(_, other)| other.engine == image.engine)
        {
            return Err(ImageError::Twice {
                engine: image.engine,
                first: first.clone(),
                second: path,
            });
        }
        images.push((path, image));
    }
    if images.is_empty() {
        return Err(none());
    }
    Ok(images.into_iter().map(|(_, image)| image).collect())
}

/// Reads and checks the image in `folder`.
fn load(folder: &Path) -> Result<Image, ImageError> {
    let path = folder.join("manifest.json");
    let manifest = Manifest::read(&path)?;
    let files = ImageFiles {
        disk: folder.join("disk.qcow2"),
        kernel: folder.join("vmlinuz"),
        initrd: folder.join("initrd.img"),
    };
    // Before the check, so that a file that is replaced during it is noticed at the first use.
    let seen = Seen::of(&files)?;
    // Of the content, not of the recipe: the same recipe gives other content when packages change, and
    // a clone of a template whose disk is not this one would read a mixture of both.
    let mut digest = Sha256::new();
    for (name, file) in [
        ("disk.qcow2", &files.disk),
        ("vmlinuz", &files.kernel),
        ("initrd.img", &files.initrd),
    ] {
        let expected = manifest.files.get(name).ok_or(ImageError::Incomplete {
            path: path.clone(),
            file: name,
        })?;
        check_file(file, expected)?;
        digest.update(format!("{name} {}\n", expected.sha256));
    }
    Ok(Image {
        engine: manifest.engine,
        engine_version: manifest.engine_version,
        digest: format!("{:x}", digest.finalize()),
        files,
        seen,
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
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
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

#[cfg(test)]
mod tests;
