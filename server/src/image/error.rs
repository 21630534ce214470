//! Why an image cannot be used.

use std::path::PathBuf;

use super::manifest;
use crate::seen::NotSeen;

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
    /// There is nothing by which damage to the manifest itself would show.
    #[error(
        "beside {path} there is no {file}, its digest: build the image again with this server's sources",
        path = path.display(), file = manifest::DIGEST_FILE
    )]
    NoDigest {
        /// The manifest.
        path: PathBuf,
    },
    /// A value is not what it should be.
    #[error("{path}: `{key}` is not written as a version is, such as 26.1.5: build the image again", path = path.display())]
    Word {
        /// The manifest.
        path: PathBuf,
        /// Which.
        key: &'static str,
    },
    /// All there are are retired.
    #[error(
        "every image in {folder} is retired: try one out with `remote-dockerd image test NAME`, and it is used \
         again",
        folder = folder.display()
    )]
    AllRetired {
        /// Where they are.
        folder: PathBuf,
    },
    /// Its agent is of another time.
    #[error(
        "the agent of the image that {path} describes speaks version {found} of its protocol and this \
         server versions {oldest} to {newest}: build the image again with this server's sources",
        path = path.display(), oldest = guest_protocol::OLDEST_VERSION, newest = guest_protocol::VERSION
    )]
    Protocol {
        /// The manifest.
        path: PathBuf,
        /// What the agent speaks.
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
}

impl From<NotSeen> for ImageError {
    fn from(error: NotSeen) -> Self {
        match error {
            NotSeen::Other { path } => Self::Replaced { path },
            NotSeen::Unreadable { path, source } => Self::Unreadable { path, source },
        }
    }
}
