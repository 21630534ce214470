//! The virtio-serial port, which is opened once and kept: a second open is refused by the kernel.
//!
//! While no host is connected, `read` gives end-of-file at once and `poll` reports a hang-up without
//! pause, so waiting for the level would spin. Waiting for edges does not: the driver wakes its
//! waiters whenever the host comes, goes or sends. The port therefore sits in an epoll set of its
//! own, edge-triggered, and the runtime waits for that set; it cannot wait for the port itself,
//! because it keeps a hang-up in mind for ever.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::PollFlags;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep};

use crate::channel::{Link, Received, Sent};
use crate::readiness;

/// Where the kernel lists the ports, each with its `name`.
const PORTS: &str = "/sys/class/virtio-ports";

/// How long the port may take to appear.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// An open port.
pub(crate) struct Port {
    file: File,
    edges: AsyncFd<EdgeSet>,
}

struct EdgeSet(Epoll);

impl AsRawFd for EdgeSet {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

impl Port {
    /// Waits until the port of this name is there, and opens it.
    ///
    /// # Errors
    /// The port is not there in time, or cannot be opened.
    pub(crate) async fn open(name: &str) -> io::Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let device = loop {
            match find(Path::new(PORTS), name) {
                Some(device) => break device,
                None if Instant::now() < deadline => sleep(POLL).await,
                None => {
                    return Err(io::Error::new(
                        ErrorKind::NotFound,
                        format!("the machine has no virtio-serial port \"{name}\""),
                    ));
                }
            }
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(device)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wanted = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        epoll.add(&file, EpollEvent::new(wanted, 0))?;
        // SAFETY: the set owns its file descriptor, which is never replaced, and closes it when the
        // registration that this makes is gone.
        let edges = unsafe { AsyncFd::register_with_interest(EdgeSet(epoll), Interest::READABLE)? };
        Ok(Self { file, edges })
    }

    /// Waits until something about the port changed since the last call.
    async fn edge(&self) -> io::Result<()> {
        let mut ready = self.edges.readable().await?;
        let mut events = [EpollEvent::empty()];
        let seen = ready.get_inner().0.wait(&mut events, EpollTimeout::ZERO)?;
        if seen == 0 {
            ready.clear_ready();
        }
        Ok(())
    }

    fn host_is_gone(&self) -> io::Result<bool> {
        let events = readiness::now(self.file.as_fd(), PollFlags::POLLIN)?;
        Ok(events.contains(PollFlags::POLLHUP))
    }
}

impl Link for Port {
    async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            match self.file.read(buffer) {
                Ok(0) => return Ok(Received::HostGone),
                Ok(count) => return Ok(Received::Bytes(count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.edge().await?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn host_back(&mut self) -> io::Result<()> {
        while self.host_is_gone()? {
            self.edge().await?;
        }
        Ok(())
    }

    async fn send(&mut self, mut bytes: &[u8]) -> io::Result<Sent> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.host_is_gone()? {
                        return Ok(Sent::HostGone);
                    }
                    self.edge().await?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Sent::All)
    }
}

/// The device file of the port with this name.
fn find(ports: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(ports).ok()?;
    for entry in entries.flatten() {
        let found = std::fs::read_to_string(entry.path().join("name"));
        if found.is_ok_and(|found| found.trim_end() == name) {
            return Some(Path::new("/dev").join(entry.file_name()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_found_by_its_name_among_others() {
        let ports = tempfile::tempdir().unwrap();
        for (device, name) in [("vport1p1", "other"), ("vport2p1", "mine")] {
            std::fs::create_dir(ports.path().join(device)).unwrap();
            std::fs::write(ports.path().join(device).join("name"), format!("{name}\n")).unwrap();
        }
        // The console has no name at all.
        std::fs::create_dir(ports.path().join("vport0p0")).unwrap();
        assert_eq!(find(ports.path(), "mine"), Some("/dev/vport2p1".into()));
        assert_eq!(find(ports.path(), "min"), None);
        assert_eq!(find(Path::new("/no/such/folder"), "mine"), None);
    }
}
