//! Programs for other processors, in an image that brings what runs them: the kernel is told by which program,
//! in the words of `binfmt.d(5)`. An ordinary image has no such words, and then nothing is done.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::mount::{MsFlags, mount};

use crate::console::say;

const FOLDER: &str = "/usr/lib/binfmt.d";
const KERNEL: &str = "/proc/sys/fs/binfmt_misc";

/// Tells the kernel.
///
/// # Errors
/// The kernel cannot be told anything.
pub(crate) fn register() -> anyhow::Result<()> {
    let words = words(Path::new(FOLDER)).with_context(|| format!("cannot read {FOLDER}"))?;
    if words.is_empty() {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("binfmt_misc"),
        KERNEL,
        Some("binfmt_misc"),
        flags,
        None::<&str>,
    )
    .with_context(|| format!("cannot mount {KERNEL}"))?;
    for line in words {
        let Some(line) = with_interpreter_open(&line) else {
            say!("{FOLDER}: this is no entry: {line}");
            continue;
        };
        if let Err(error) = fs::write(Path::new(KERNEL).join("register"), &line) {
            say!("{FOLDER}: the kernel does not take {line}: {error}");
        }
    }
    Ok(())
}

/// The entries of all files, in the order of their names.
fn words(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths?;
    paths.retain(|path| path.extension().is_some_and(|it| it == "conf"));
    paths.sort();
    let mut lines = Vec::new();
    for path in paths {
        let text = fs::read_to_string(path)?;
        let entries = text.lines().map(str::trim);
        let entries = entries.filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
        lines.extend(entries.map(str::to_owned));
    }
    Ok(lines)
}

/// The entry with the flag by which the kernel opens the interpreter now and not in each container, where it is
/// not.
fn with_interpreter_open(entry: &str) -> Option<String> {
    let delimiter = entry.chars().next()?;
    let fields: Vec<&str> = entry.split(delimiter).collect();
    // Before the first delimiter is nothing; then name, type, offset, magic, mask, interpreter, flags.
    let ["", _, _, _, _, _, _, flags] = fields[..] else {
        return None;
    };
    let more = if flags.contains('F') { "" } else { "F" };
    Some(format!("{entry}{more}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_in_their_order_and_an_image_without_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let nothing = folder.path().join("none");
        assert!(words(&nothing).unwrap().is_empty());
        for (name, text) in [
            ("b.conf", "# words\n\n:b:M::x::/b:\n"),
            ("a.conf", ":a:M::x::/a:P\n; words\n"),
            ("c.txt", ":c:M::x::/c:\n"),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        assert_eq!(
            words(folder.path()).unwrap(),
            [":a:M::x::/a:P", ":b:M::x::/b:"]
        );
    }

    #[test]
    fn the_interpreter_is_found_in_containers_as_well() {
        let open = |entry| with_interpreter_open(entry);
        let magic = r":arm:M::\x7fELF:\xff\xff:/usr/bin/qemu-aarch64:";
        assert_eq!(open(magic), Some(format!("{magic}F")));
        assert_eq!(
            open(",arm,M,,a:b,,/q,OCF"),
            Some(",arm,M,,a:b,,/q,OCF".to_owned())
        );
        for none in ["", ":", "words", ":a:M::x:/b:", ":a:M::x::/b:F:"] {
            assert_eq!(open(none), None, "{none}");
        }
    }
}
