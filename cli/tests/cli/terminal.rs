//! A program on a terminal of its own.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The terminal's keyboard and screen, and the program.
pub(crate) struct Terminal {
    keyboard: File,
    screen: BufReader<File>,
    child: Child,
}

impl Terminal {
    /// Starts the program as the leader of a session on a fresh pseudo terminal.
    pub(crate) fn run(mut command: Command) -> Self {
        let (outside, inside) = open();
        command
            .stdin(Stdio::from(inside.try_clone().unwrap()))
            .stdout(Stdio::from(inside.try_clone().unwrap()))
            .stderr(Stdio::from(inside));
        // SAFETY: between fork and exec only these two system calls are made. Standard input is
        // the terminal already.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() == -1 || libc::ioctl(0, libc::TIOCSCTTY, 0) == -1 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        // `command` goes here, and with it this process's hold on the inner side: the screen ends
        // when the program does.
        Self {
            keyboard: outside.try_clone().unwrap(),
            screen: BufReader::new(outside),
            child,
        }
    }

    /// Types these bytes.
    pub(crate) fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    /// Reads up to this text.
    pub(crate) fn read_until(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.ends_with(text) {
            match self.next() {
                Some(character) => seen.push(character),
                None => panic!("no {text} in {seen:?}"),
            }
        }
        seen
    }

    /// Reads until the program has let go of the terminal.
    pub(crate) fn read_to_end(&mut self) -> String {
        let mut bytes = Vec::new();
        // The end of a terminal is an error on Linux.
        let _ = self.screen.read_to_end(&mut bytes);
        String::from_utf8(bytes).unwrap().replace("\r\n", "\n")
    }

    fn next(&mut self) -> Option<char> {
        let mut byte = [0];
        self.screen.read_exact(&mut byte).ok()?;
        Some(char::from(byte[0]))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

/// The outer and the inner side of a pseudo terminal.
fn open() -> (File, File) {
    let (mut outside, mut inside) = (-1, -1);
    // SAFETY: both numbers are written before they are used; the other pointers may be null.
    let code = unsafe {
        libc::openpty(
            &mut outside,
            &mut inside,
            std::ptr::null_mut(),
            std::ptr::null(),
            std::ptr::null(),
        )
    };
    assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: both are fresh and owned by nobody else.
    unsafe {
        libc::fcntl(outside, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::fcntl(inside, libc::F_SETFD, libc::FD_CLOEXEC);
        (
            OwnedFd::from_raw_fd(outside).into(),
            OwnedFd::from_raw_fd(inside).into(),
        )
    }
}
