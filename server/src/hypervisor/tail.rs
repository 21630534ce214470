//! The end of a text that somebody else writes, as it is shown to people.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The ends of what QEMU and of what its guest said, one after the other and at most `max_bytes`
/// together, in lines. A file that is not there says nothing. QEMU may have half of it, and what it
/// leaves is for the guest.
pub(super) fn of(qemu: Option<&Path>, console: &Path, max_bytes: usize) -> String {
    let said = qemu.map(|log| end_of(log, max_bytes / 2));
    let mut text = said.map_or_else(String::new, |said| {
        shown(&without_the_host(&said), max_bytes / 2)
    });
    text.push_str(&end_of(console, max_bytes - text.len()));
    text
}

fn end_of(file: &Path, limit: usize) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let file = File::open(file)?;
        let length = file.metadata()?.len();
        let from = length.saturating_sub(limit as u64);
        let mut bytes = vec![0; usize::try_from(length - from).unwrap_or(limit)];
        file.read_exact_at(&mut bytes, from)?;
        Ok(bytes)
    };
    shown(&String::from_utf8_lossy(&read().unwrap_or_default()), limit)
}

/// Leaves out how libvirt started QEMU, which fills the tail, and in which folders the host keeps its
/// files, which is no business of whoever has the machine.
fn without_the_host(text: &str) -> String {
    let is_libvirts = |line: &&str| {
        line.ends_with('\\')
            || line.starts_with("-msg timestamp")
            || line.contains(": starting up libvirt version")
            || line.contains(" is tainted: ")
    };
    let kept = text.lines().filter(|line| !is_libvirts(line));
    kept.map(|line| without_folders(line) + "\n").collect()
}

/// Leaves of each path its last part.
fn without_folders(line: &str) -> String {
    let ends_word = |c: char| c.is_whitespace() || "'\"`,;:=()[]<>".contains(c);
    let mut text = String::with_capacity(line.len());
    for word in line.split_inclusive(ends_word) {
        match word.rfind('/') {
            Some(last) if word.starts_with('/') || word.matches('/').count() > 1 => {
                text.push_str("...");
                text.push_str(&word[last..]);
            }
            _ => text.push_str(word),
        }
    }
    text
}

/// The end of `text` in lines, made harmless, at most `limit` bytes.
pub(super) fn shown(text: &str, limit: usize) -> String {
    let mut text = harmless(text);
    // A cut sequence of bytes reads as a longer character, and an unfinished line gets an end.
    let mut start = text.len().saturating_sub(limit);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.split_off(start)
}

/// Lines that end with `\n`, without empty ones and without what could disturb a terminal or a log:
/// sequences of a terminal are taken out, other characters that are not plain are shown as `?`.
fn harmless(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    let mut line_is_empty = true;
    while let Some(character) = rest.next() {
        match character {
            '\u{1b}' => skip_sequence(&mut rest),
            '\n' if line_is_empty => {}
            '\n' => {
                clean.push('\n');
                line_is_empty = true;
            }
            // A serial console ends its lines with both.
            '\r' => {}
            _ => {
                line_is_empty = false;
                clean.push(if is_plain(character) { character } else { '?' });
            }
        }
    }
    if !line_is_empty {
        clean.push('\n');
    }
    clean
}

/// Skips what follows an escape character: `[`, parameters, and a letter that ends it.
fn skip_sequence(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    if rest.next_if_eq(&'[').is_some() {
        while rest.next_if(|c| matches!(c, ' '..='?')).is_some() {}
        let _ = rest.next_if(|c| matches!(c, '@'..='~'));
    }
}

/// A console speaks ASCII. Whatever else a guest writes could be text that runs backwards, has no
/// width, or breaks lines where a reader of logs does not expect it.
fn is_plain(character: char) -> bool {
    matches!(character, ' '..='~' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_qemu_was_started_is_nobodys_business() {
        let log = "2026: starting up libvirt version: 11\nPATH=/bin \\\n/usr/bin/qemu \\\n-drive \\\n\
                   -msg timestamp=on\n2026: Domain id=1 is tainted: custom-argv\nqemu: no memory\n";
        assert_eq!(without_the_host(log), "qemu: no memory\n");
    }

    #[test]
    fn where_the_host_keeps_its_files_is_nobodys_business_either() {
        for (said, shown) in [
            (
                "qemu: -drive file=/state/vms/vm-1/disk.qcow2,if=none: No space left",
                "qemu: -drive file=.../disk.qcow2,if=none: No space left",
            ),
            (
                "cannot open '/a b/c/memory'",
                "cannot open '.../a .../memory'",
            ),
            (
                "shutting down, reason=crashed",
                "shutting down, reason=crashed",
            ),
            ("read/write error", "read/write error"),
            ("/", ".../"),
        ] {
            assert_eq!(without_folders(said), shown);
        }
        // The guest's own paths are its holder's.
        let folder = tempfile::tempdir().unwrap();
        let [log, console] = ["log", "console"].map(|name| folder.path().join(name));
        std::fs::write(&log, "/usr/bin/qemu: bad\n").unwrap();
        std::fs::write(&console, "Run /sbin/init as init process\n").unwrap();
        assert_eq!(
            of(Some(&log), &console, 1000),
            ".../qemu: bad\nRun /sbin/init as init process\n"
        );
    }

    #[test]
    fn the_end_is_shown_in_lines_and_nothing_of_it_moves_the_cursor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        let console =
            "\u{1b}[2J\u{1b}[1;31mBoot\u{1b}[0m failed\r\n\r\n\u{7}\u{202e}evil\u{2028}\n\u{1b}";
        std::fs::write(&path, console).unwrap();
        assert_eq!(of(None, &path, 1000), "Boot failed\n??evil?\n");
    }

    #[test]
    fn it_is_never_longer_than_asked_for_whatever_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        for unit in [&b"x"[..], "\u{fc}".as_bytes(), b"\xff", b"\n", b"\x1b["] {
            std::fs::write(&path, unit.repeat(1000)).unwrap();
            for limit in [0, 1, 2, 3, 10, 101, 5000] {
                for text in [of(None, &path, limit), of(Some(&path), &path, limit)] {
                    assert!(text.len() <= limit, "{limit}: {}", text.len());
                }
            }
        }
    }

    #[test]
    fn each_of_two_files_has_its_share_and_what_the_other_leaves() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
        std::fs::write(&two, "y".repeat(500)).unwrap();
        let missing = of(Some(&one), &two, 100);
        assert_eq!((missing.len(), missing.contains('x')), (100, false));
        std::fs::write(&one, "x".repeat(500)).unwrap();
        let both = of(Some(&one), &two, 100);
        assert_eq!(both.len(), 100);
        assert_eq!(both.matches('x').count(), 49);
        std::fs::write(&one, "short").unwrap();
        assert!(of(Some(&one), &two, 100).starts_with("short\nyyy"));
    }
}
