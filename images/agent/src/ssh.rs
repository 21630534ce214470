//! SSH for the holder of the lease: one `sshd` for each connection, none while nobody asks. It reads
//! from and writes to its end of a socket pair, as below `inetd`; no port of the guest leads to it. Who
//! gets here has shown the lease's certificate in the TLS handshake, so `sshd` asks for nothing more.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::net::UnixStream;

use crate::reaper::Reaper;

/// How many connections may have an `sshd` at a time, which takes some megabytes of the guest.
const MAX_CONNECTIONS: u32 = 64;

/// The daemon by its whole path: it starts itself again and insists on one.
const SSHD: &str = "/usr/sbin/sshd";

/// It separates its privileges with the help of this folder, which must be root's and empty.
const SSHD_FOLDER: &str = "/run/sshd";

/// Starts the daemons.
#[derive(Clone)]
pub(crate) struct Sshd {
    reaper: Reaper,
    program: &'static str,
    arguments: &'static [&'static str],
    open: Arc<AtomicU32>,
}

impl Sshd {
    /// The guest's own.
    ///
    /// # Errors
    /// The folder that it needs cannot be made.
    pub(crate) fn new(reaper: Reaper) -> io::Result<Self> {
        std::fs::create_dir_all(SSHD_FOLDER)?;
        // -i: the connection is standard input and output; -e: what it has to say goes to where the
        // agent's own words go, as there is no syslog.
        Ok(Self::of(reaper, SSHD, &["-i", "-e"]))
    }

    /// Another program in its place.
    pub(crate) fn of(
        reaper: Reaper,
        program: &'static str,
        arguments: &'static [&'static str],
    ) -> Self {
        Self {
            reaper,
            program,
            arguments,
            open: Arc::default(),
        }
    }

    /// Starts a daemon for one connection and returns the other end of it.
    ///
    /// # Errors
    /// There are too many already, or it cannot be started.
    pub(crate) fn connect(&self) -> io::Result<UnixStream> {
        let more = |count| (count < MAX_CONNECTIONS).then_some(count + 1);
        self.open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map_err(|_| io::Error::other("too many SSH connections"))?;
        let started = self.start();
        if started.is_err() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        started
    }

    fn start(&self) -> io::Result<UnixStream> {
        let (ours, its) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        let ours = UnixStream::from_std(ours)?;
        let input = OwnedFd::from(its);
        let output = input.try_clone()?;
        let child = self.reaper.spawn(
            Command::new(self.program)
                .args(self.arguments)
                .env_clear()
                .env("PATH", crate::boot::PATH)
                .current_dir("/")
                .stdin(Stdio::from(input))
                .stdout(Stdio::from(output))
                .stderr(Stdio::inherit()),
        )?;
        let open = Arc::clone(&self.open);
        tokio::spawn(async move {
            let _ = child.exit().await;
            open.fetch_sub(1, Ordering::Relaxed);
        });
        Ok(ours)
    }
}
