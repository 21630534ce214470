//! The manifest of an image, as far as the server needs it; people and tools may read more in it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::ImageError;

/// The format that `images/build.sh` of this tree writes.
pub(super) const FORMAT: u32 = 1;

#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub(super) engine: String,
    pub(super) engine_version: String,
    pub(super) files: BTreeMap<String, FileEntry>,
}

/// Size in bytes and digest (hexadecimal) of a file.
#[derive(Debug, Deserialize)]
pub(super) struct FileEntry {
    pub(super) size: u64,
    pub(super) sha256: String,
}

impl Manifest {
    pub(super) fn read(path: &Path) -> Result<Self, ImageError> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let text = std::fs::read_to_string(path).map_err(|source| ImageError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let not_one = |source| ImageError::Manifest {
            path: path.to_owned(),
            source,
        };
        // The format first, so that a future manifest is called that and not malformed.
        let Versioned { format } = serde_json::from_str(&text).map_err(not_one)?;
        if format != FORMAT {
            return Err(ImageError::Format {
                path: path.to_owned(),
                found: format,
            });
        }
        serde_json::from_str(&text).map_err(not_one)
    }
}
