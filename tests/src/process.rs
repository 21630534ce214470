//! Running programs with a limit.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

/// A command that is killed after `limit`; coreutils' `timeout` stands between, so exit code 124 says
/// that it took too long.
#[must_use]
pub fn bounded(limit: Duration, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", "--foreground"])
        .arg(format!("{}", limit.as_secs()))
        .arg(program)
        .stdin(Stdio::null());
    command
}

/// What a program said, for messages.
#[must_use]
pub fn said(output: &Output) -> String {
    format!(
        "{}\nstdout: {}\nstderr: {}",
        output.status,
        excerpt(&output.stdout),
        excerpt(&output.stderr)
    )
}

/// Runs the command and returns what it wrote to stdout, as text without the line end.
///
/// # Panics
/// When it cannot be run or fails; with what it said.
pub fn succeed(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    text(&output.stdout)
}

/// Runs the command and returns what it wrote to stderr.
///
/// # Panics
/// When it cannot be run, or succeeds.
pub fn fail(command: &mut Command) -> String {
    let output = run(command);
    assert!(
        !output.status.success() && output.status.code() != Some(124),
        "{command:?} should have failed: {}",
        said(&output)
    );
    text(&output.stderr)
}

/// Runs the command to its end.
///
/// # Panics
/// When it cannot be run.
pub fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Bytes as text without the line end.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

fn excerpt(bytes: &[u8]) -> String {
    const MOST: usize = 4000;
    let text = text(bytes);
    match text.char_indices().nth_back(MOST) {
        Some((start, _)) => format!("…{}", &text[start..]),
        None => text,
    }
}

/// A process that somebody else started, held by a handle that no later process of the same number has.
#[derive(Debug)]
pub struct Watched(OwnedFd);

impl Watched {
    /// Takes hold of a process.
    ///
    /// # Panics
    /// When there is none of this number.
    #[must_use]
    pub fn open(pid: Pid) -> Self {
        // SAFETY: takes two numbers and returns a new descriptor or -1.
        let descriptor = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid.as_raw(), 0) };
        let descriptor = i32::try_from(descriptor).expect("a descriptor");
        assert!(descriptor >= 0, "no process {pid}");
        // SAFETY: the kernel just returned it; nobody else owns it.
        Self(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }

    /// Waits until it has ended, which is after its memory was given back.
    ///
    /// # Panics
    /// When it does not within `limit`.
    pub fn wait_gone(&self, limit: Duration) {
        let timeout = PollTimeout::try_from(limit).expect("a limit in milliseconds");
        let mut ended = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let count = poll(&mut ended, timeout).expect("waiting for a process");
        assert!(count == 1, "the process did not end within {limit:?}");
    }
}

/// How often each thread of a process has gone to sleep so far, and so been woken.
#[derive(Debug, Clone, Default)]
pub struct Sleeps(BTreeMap<OsString, u64>);

impl Sleeps {
    /// Those of the threads that there are now.
    ///
    /// # Panics
    /// When there is no such process.
    #[must_use]
    pub fn of(pid: Pid) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process");
        let counts = tasks.flatten().filter_map(|task| {
            let text = fs::read_to_string(task.path().join("status")).ok()?;
            let mut lines = text.lines();
            let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            Some((task.file_name(), count.trim().parse().ok()?))
        });
        Self(counts.collect())
    }

    /// How often the threads that there are now have slept since. What one did that has ended is not known.
    #[must_use]
    pub fn since(&self, before: &Self) -> u64 {
        let each = self.0.iter().map(|(thread, now)| {
            let before = before.0.get(thread).copied().unwrap_or_default();
            now.saturating_sub(before)
        });
        each.sum()
    }
}
