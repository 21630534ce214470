//! What the daemons say goes to files that cannot grow without end. The console is too slow for it,
//! and a daemon that writes its file itself would go on until the disk is full.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk;

/// Size at which a log is put aside and a new one begun; the one put aside before goes. So a log
/// takes twice this at most, in bytes.
const LIMIT_BYTES: u64 = 4 * 1024 * 1024;

/// A line that is longer is taken for several, in bytes.
const LONGEST_LINE: usize = 8192;

/// Lines kept for the console, told when a daemon ends.
const TAIL_LINES: usize = 4;

/// Where the log of the daemon `name` is.
pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(format!("/var/log/{name}.log"))
}

/// Where the part of a log is that was put aside.
pub(crate) fn put_aside(log: &Path) -> PathBuf {
    log.with_extension("log.1")
}

/// A daemon's log: one pipe and one thread that sleeps on it, for all the daemon's lives.
pub(crate) struct DaemonLog {
    /// Kept open, so that the pipe never ends, whichever child still holds an end of it.
    pipe: PipeWriter,
    tail: Arc<Mutex<VecDeque<String>>>,
}

impl DaemonLog {
    /// Begins to write what comes to `path`.
    ///
    /// # Errors
    /// No pipe or no thread to be had.
    pub(crate) fn start(name: &str, path: &Path) -> io::Result<Self> {
        let (reader, pipe) = io::pipe()?;
        let tail = Arc::default();
        let (collected, file) = (Arc::clone(&tail), BoundedFile::new(path, LIMIT_BYTES));
        std::thread::Builder::new()
            .name(format!("{name}-log"))
            .stack_size(64 * 1024)
            .spawn(move || collect(reader, file, &collected))?;
        Ok(Self { pipe, tail })
    }

    /// An end for a child to write to.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn sink(&self) -> io::Result<Stdio> {
        Ok(self.pipe.try_clone()?.into())
    }

    /// The last lines, oldest first, and forgets them.
    pub(crate) fn take_tail(&self) -> Vec<String> {
        self.tail
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .collect()
    }
}

fn collect(mut reader: PipeReader, mut file: BoundedFile, tail: &Mutex<VecDeque<String>>) {
    let mut buffer = [0; LONGEST_LINE];
    // What a line began with whose end is still to come.
    let mut begun = Vec::new();
    while let Ok(count) = reader.read(&mut buffer) {
        let text = &buffer[..count];
        // A full disk loses lines of a log; it must not stop a daemon that is blocked on its pipe.
        let _ = file.append(text);
        begun.extend_from_slice(text);
        let end = match begun.iter().rposition(|&byte| byte == b'\n') {
            Some(last) => last + 1,
            None if count == 0 || begun.len() >= LONGEST_LINE => begun.len(),
            None => continue,
        };
        let lines = String::from_utf8_lossy(&begun[..end]).into_owned();
        begun.drain(..end);
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        for line in lines.lines().filter(|line| !line.is_empty()) {
            disk::hear(line);
            if tail.len() == TAIL_LINES {
                tail.pop_front();
            }
            tail.push_back(line.to_owned());
        }
        if count == 0 {
            return;
        }
    }
}

/// A file that is put aside when it is full.
struct BoundedFile {
    path: PathBuf,
    limit: u64,
    open: Option<(File, u64)>,
}

impl BoundedFile {
    fn new(path: &Path, limit: u64) -> Self {
        Self {
            path: path.to_owned(),
            limit,
            open: None,
        }
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        if self
            .open
            .as_ref()
            .is_some_and(|(_, size)| *size >= self.limit)
        {
            self.open = None;
            std::fs::rename(&self.path, put_aside(&self.path))?;
        }
        let (file, size) = match &mut self.open {
            Some(open) => open,
            closed => {
                let file = OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(&self.path)?;
                let size = file.metadata()?.len();
                closed.insert((file, size))
            }
        };
        file.write_all(text)?;
        *size += text.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_never_takes_more_than_twice_its_limit_and_keeps_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dockerd.log");
        let mut file = BoundedFile::new(&path, 1000);
        for line in 0..1000 {
            file.append(format!("line {line}\n").as_bytes()).unwrap();
        }
        let sizes: Vec<u64> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|&size| size < 1000 + 10), "{sizes:?}");
        assert!(
            std::fs::read_to_string(&path)
                .unwrap()
                .ends_with("line 999\n")
        );
    }

    #[tokio::test]
    async fn a_daemon_that_finds_no_room_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        let log = DaemonLog::start("x", &folder.path().join("x.log")).unwrap();
        // In two parts, as a line may come that is read while others are written.
        let line =
            "printf 'write /var/lib/docker/tmp/x: no space '; sleep 0.3; echo left on device";
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", line])
            .stdout(log.sink().unwrap())
            .spawn()
            .unwrap();
        let patience = std::time::Duration::from_secs(60);
        let heard = tokio::time::timeout(patience, disk::refused()).await;
        heard.expect("what the daemon logged is heard");
        child.wait().unwrap();
    }

    #[test]
    fn a_child_that_writes_is_heard_and_its_last_lines_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let log = DaemonLog::start("x", &path).unwrap();
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "for i in 1 2 3 4 5 6; do echo line $i; done"])
            .stdout(log.sink().unwrap())
            .spawn()
            .unwrap();
        child.wait().unwrap();
        let wanted = ["line 3", "line 4", "line 5", "line 6"];
        for _ in 0..500 {
            if log.tail.lock().unwrap().iter().eq(wanted.iter()) {
                assert!(
                    std::fs::read_to_string(&path)
                        .unwrap()
                        .starts_with("line 1\n")
                );
                assert_eq!(log.take_tail(), wanted);
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("seen: {:?}", log.take_tail());
    }
}
