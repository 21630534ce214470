//! The ends of the logs, for whoever asks why a machine does not do what it should. The tenant may
//! have put anything where they are, so nothing here waits, and each read has an end.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use guest_protocol::{Logs, MAX_LOG_TAIL_BYTES};

use crate::{daemon_log, kmsg};

/// How many records of the kernel's log are read; its ring holds fewer, but somebody may write while
/// it is read.
const MAX_RECORDS: usize = 20_000;

/// How many grave lines of the kernel are kept, and how much of each.
const MAX_GRAVE: usize = 16;
const MAX_GRAVE_BYTES: usize = 300;

/// The last `max_bytes` of each log, or a little less.
pub(crate) fn tails(max_bytes: u32) -> Logs {
    let max =
        usize::try_from(max_bytes).map_or(MAX_LOG_TAIL_BYTES, |max| max.min(MAX_LOG_TAIL_BYTES));
    let daemon = |name: &str| text(&daemon_log(&daemon_log::path(name), max), max);
    Logs {
        dockerd: daemon("dockerd"),
        containerd: daemon("containerd"),
        kernel: kernel(max)
            .unwrap_or_else(|error| format!("the kernel's log is not readable: {error}\n")),
    }
}

/// The end of a log and, where that is short, of the part of it that was put aside.
fn daemon_log(path: &Path, max: usize) -> Vec<u8> {
    let part = |path: &Path, max| match tail(path, max) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => format!("this log is not readable: {error}\n").into_bytes(),
    };
    let newest = part(path, max);
    let mut all = part(&daemon_log::put_aside(path), max - newest.len());
    all.extend(newest);
    all
}

fn tail(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::Error::other("no file is there"));
    }
    let max = max as u64;
    file.seek(SeekFrom::Start(about.len().saturating_sub(max)))?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn kernel(max: usize) -> io::Result<String> {
    let log = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")?;
    Ok(records(log, max)?.end(max))
}

/// What `/dev/kmsg` says.
#[derive(Default)]
struct Records {
    /// The last of it.
    lines: Vec<u8>,
    /// The last grave ones of all of it.
    grave: VecDeque<String>,
}

impl Records {
    fn take(&mut self, record: &[u8], max: usize) {
        let line = line(record);
        if is_grave(record) {
            if self.grave.len() == MAX_GRAVE {
                self.grave.pop_front();
            }
            self.grave.push_back(text(&line, MAX_GRAVE_BYTES));
        }
        self.lines.extend(line);
        if self.lines.len() > 4 * max {
            self.lines.drain(..self.lines.len() - max);
        }
    }

    /// The last `max` bytes; before them, in up to a quarter of that, the grave lines that came earlier. One
    /// container that comes and goes makes enough lines to hide what happened before.
    fn end(&self, max: usize) -> String {
        let tail = text(&self.lines, max - max / 4);
        let hidden = self.grave.iter().filter(|line| !tail.contains(*line));
        let hidden: String = hidden.map(String::as_str).collect();
        if hidden.is_empty() {
            return text(&self.lines, max);
        }
        const MORE: &str = "[...]\n";
        let before = text(hidden.as_bytes(), (max / 4).saturating_sub(MORE.len()));
        if before.is_empty() {
            return text(&self.lines, max);
        }
        before + MORE + &tail
    }
}

/// Whether the kernel itself calls it an error (level 3) or worse, as it does where a disk does not read or
/// write, a task hangs or a process is killed for want of memory; and for what that was.
fn is_grave(record: &[u8]) -> bool {
    matches!(record, [b'0'..=b'3', b',', ..])
        || kmsg::of_the_kernel(record).is_some_and(|text| text.starts_with("oom-kill:"))
}

/// Reads it from its beginning; of what is longer than `max` more than that.
fn records(mut log: File, max: usize) -> io::Result<Records> {
    let mut records = Records::default();
    // One read gives one record; none is longer.
    let mut record = [0; 8192];
    for _ in 0..MAX_RECORDS {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(length) => records.take(&record[..length], max),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => break,
                // Records were overwritten before they were read: go on with the oldest left.
                ErrorKind::BrokenPipe | ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
    Ok(records)
}

/// `priority,number,microseconds,flags;text` as `[seconds] text`.
fn line(record: &[u8]) -> Vec<u8> {
    let record = String::from_utf8_lossy(record);
    let (header, rest) = record.split_once(';').unwrap_or(("", &record));
    let text = rest.lines().next().unwrap_or_default();
    let micros = header.split(',').nth(2).and_then(|us| us.parse().ok());
    let since_boot = std::time::Duration::from_micros(micros.unwrap_or_default());
    format!("[{:.3}] {text}\n", since_boot.as_secs_f64()).into_bytes()
}

/// The last `max` bytes as text that JSON does not make more than twice as long, from the beginning
/// of a line if there is one.
fn text(bytes: &[u8], max: usize) -> String {
    let shown = |character: char| match character {
        '\n' | '\t' => character,
        _ if character.is_control() => '?',
        _ => character,
    };
    let text: String = String::from_utf8_lossy(bytes).chars().map(shown).collect();
    let cut = (text.len().saturating_sub(max)..text.len())
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(text.len());
    let tail = &text[cut..];
    let whole = match tail.find('\n') {
        Some(end) if cut > 0 && end + 1 < tail.len() => &tail[end + 1..],
        _ => tail,
    };
    whole.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_begins_with_a_line_and_reaches_into_the_part_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dockerd.log");
        assert!(daemon_log(&path, 100).is_empty());
        let lines =
            |from: u32, to: u32| -> String { (from..to).map(|n| format!("line {n}\n")).collect() };
        std::fs::write(daemon_log::put_aside(&path), lines(0, 1000)).unwrap();
        std::fs::write(&path, lines(1000, 1002)).unwrap();
        let tail = text(&daemon_log(&path, 50), 40);
        assert_eq!(tail, "line 998\nline 999\nline 1000\nline 1001\n");
    }

    #[test]
    fn what_is_no_file_is_told_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for path in [fifo, link] {
            let told = String::from_utf8(daemon_log(&path, 100)).unwrap();
            assert!(told.starts_with("this log is not readable"), "{told}");
        }
    }

    #[test]
    fn text_is_printable_and_never_longer_than_asked_for() {
        assert_eq!(text(b"a\x1b[2J\x00b\nc\td\r\n", 100), "a?[2J?b\nc\td?\n");
        // Each wrong byte becomes three.
        let long = text(&[0xff; 1000], 100);
        assert_eq!(long.len(), 99);
        assert_eq!(text("ä".repeat(10).as_bytes(), 5), "ää");
        assert_eq!(text(b"", 0), "");
    }

    #[test]
    fn records_of_the_kernel_read_as_lines() {
        let record = b"6,339,5140900,-;NET: Registered\n SUBSYSTEM=acpi\n";
        assert_eq!(line(record), b"[5.141] NET: Registered\n");
        assert_eq!(line(b"rubbish"), b"[0.000] rubbish\n");
    }

    #[test]
    fn what_was_grave_is_not_hidden_by_what_came_after() {
        let mut records = Records::default();
        let mut say = |priority: u32, text: &str| {
            let record = format!("{priority},1,1000000,-;{text}\n");
            records.take(record.as_bytes(), 1000);
            records.end(1000)
        };
        say(3, "blk_update_request: I/O error, dev vda, sector 7");
        say(6, "oom-kill:constraint=CONSTRAINT_NONE,task=web");
        // A program that calls itself the kernel.
        say(11, "I/O error of a program");
        let mut end = String::new();
        for number in 0..1000 {
            end = say(
                6,
                &format!("docker0: port {number} entered forwarding state"),
            );
        }
        assert!(end.len() <= 1000, "{}", end.len());
        let expected = "[1.000] blk_update_request: I/O error, dev vda, sector 7\n\
                        [1.000] oom-kill:constraint=CONSTRAINT_NONE,task=web\n\
                        [...]\n[1.000] docker0";
        assert!(end.starts_with(expected), "{end}");
        assert!(
            end.ends_with("port 999 entered forwarding state\n"),
            "{end}"
        );
        // What is in sight is not told twice.
        end = say(2, "EXT4-fs error (device vda)");
        assert_eq!(end.matches("EXT4-fs").count(), 1, "{end}");
        for number in 0..1000 {
            end = say(2, &format!("EXT4-fs error {number} {}", "x".repeat(5000)));
        }
        assert!(end.len() <= 1000, "{}", end.len());
    }

    #[test]
    fn the_kernels_own_log_can_be_read() {
        let kernel = kernel(MAX_LOG_TAIL_BYTES).unwrap();
        assert!(kernel.len() <= MAX_LOG_TAIL_BYTES);
    }
}
