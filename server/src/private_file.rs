//! Small files of the state folder that hold secrets or stand beside one: read without following a link, and
//! written whole or not at all.

use std::fs::{OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

const MAX_BYTES: u64 = 64 * 1024;

/// The text of a file and its permission bits, if it is there.
pub(crate) fn read(path: &Path) -> io::Result<Option<(String, u32)>> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(Some((text, mode)))
}

/// Written beside and renamed, so that a crash leaves a whole file or none. The caller holds the lock on the
/// folder, so nobody else writes at the same time.
pub(crate) fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    // Appended, so that no two files have the same.
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = Path::new(&draft);
    match std::fs::remove_file(draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft)?;
    file.write_all(text.as_bytes())?;
    // Whatever the umask is.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    std::fs::rename(draft, path)
}
