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
    for fault in tell(Path::new(KERNEL), &words) {
        say!("{FOLDER}: {fault}");
    }
    Ok(())
}

/// Writes each entry to the file of `kernel` that takes them, and returns what is wrong with those that are not
/// taken: they do not keep the others away.
fn tell(kernel: &Path, words: &[String]) -> Vec<String> {
    let fault = |line: &String| {
        let Some(entry) = with_interpreter_open(line) else {
            return Some(format!("this is no entry: {line}"));
        };
        let told = fs::write(kernel.join("register"), &entry);
        let error = told.err()?;
        Some(format!("the kernel does not take {entry}: {error}"))
    };
    words.iter().filter_map(fault).collect()
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

    /// The kernel's file takes one entry each time it is opened.
    #[test]
    fn each_entry_is_told_by_itself_and_a_wrong_one_keeps_no_other_away() {
        let kernel = tempfile::tempdir().unwrap();
        let register = kernel.path().join("register");
        nix::unistd::mkfifo(&register, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let words = ["nonsense", ":a:M::x::/a:", ":b:M::x::/b:PF"].map(str::to_owned);
        let read = register.clone();
        let reader = std::thread::spawn(move || {
            let kept = fs::File::open(&read).unwrap();
            let mut told = String::new();
            io::Read::read_to_string(&mut &kept, &mut told).unwrap();
            told
        });
        // Held open, so that the reader sees one end only.
        let end = fs::File::options().write(true).open(&register).unwrap();
        assert_eq!(tell(kernel.path(), &words), ["this is no entry: nonsense"]);
        drop(end);
        assert_eq!(reader.join().unwrap(), ":a:M::x::/a:F:b:M::x::/b:PF");
    }

    #[test]
    fn what_the_kernel_refuses_is_said_with_its_words() {
        let kernel = tempfile::tempdir().unwrap();
        // It cannot be written to.
        fs::create_dir(kernel.path().join("register")).unwrap();
        let words = [":a:M::x::/a:", ":b:M::x::/b:"].map(str::to_owned);
        let faults = tell(kernel.path(), &words);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].starts_with("the kernel does not take :a:M::x::/a:F: "));
    }

    /// What Debian's package says, whose words are the ones that images have.
    #[test]
    fn the_words_of_a_package_are_understood() {
        let magic =
            r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00";
        let mask =
            r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";
        let line = format!(":qemu-aarch64:M:0:{magic}:{mask}:/usr/bin/qemu-aarch64:POCF");
        assert_eq!(with_interpreter_open(&line), Some(line));
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
