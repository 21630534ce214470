//! Files that are there as a whole or not at all.

use std::fs;
use std::path::Path;

use anyhow::Context;

/// Puts a file with this content in the place of the one that is there. Who reads it finds the old or the
/// new one.
///
/// # Errors
/// The kernel's, with the path.
pub(crate) fn replace(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let written = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&new, content)?;
        fs::rename(&new, path)
    };
    written().with_context(|| format!("cannot write {}", path.display()))
}
