//! Pipes in the kernel by which streams of many bytes go from socket to socket, `splice(2)`.
//!
//! A direction has one only while bytes are in it, so that of streams that rest, or wait for the next bytes, none
//! holds any. One that has been emptied goes to whoever needs one next; one with bytes in it never does, and is
//! closed when its connection breaks: what is left in it would be taken for another connection's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::carry::BUFFER_BYTES;

/// What a pipe is to hold: packets of a machine take a page of it each. With half of it, two processors that sender,
/// relay and receiver share carry a fifth less over eight streams, as each is woken for less; with twice as much
/// they carry no more. A stream whose receiver takes nothing keeps as much memory of the host.
pub(super) const PIPE_BYTES: usize = 512 * 1024;

/// Empty pipes that are kept. More streams that move bytes at the same time make some of their own.
const SPARE: usize = 32;

/// The empty pipes.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    spare: Mutex<Vec<Pipe>>,
}

impl Pipes {
    /// None where the system has none that is worth having.
    pub(super) fn take(&self) -> Option<Pipe> {
        let spare = self.spare().pop();
        spare.or_else(Pipe::new)
    }

    pub(super) fn give(&self, pipe: Pipe) {
        let mut spare = self.spare();
        if spare.len() < SPARE {
            spare.push(pipe);
        }
    }

    /// No code panics while it holds the lock.
    fn spare(&self) -> MutexGuard<'_, Vec<Pipe>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pipe with nothing in it.
#[derive(Debug)]
pub(super) struct Pipe {
    inlet: OwnedFd,
    outlet: OwnedFd,
}

/// How it went to fill one.
#[derive(Debug)]
pub(super) enum Filling {
    /// There was something.
    Some(Filled),
    /// Nothing is there, or that was all, or there is urgent data, before which a pipe takes nothing.
    Nothing(Pipe),
    /// The connection has broken.
    Broken(io::Error),
}

impl Pipe {
    fn new() -> Option<Self> {
        let (outlet, inlet) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
        let wanted = i32::try_from(PIPE_BYTES).ok()?;
        // What can be had is looked at.
        let _ = fcntl(&inlet, FcntlArg::F_SETPIPE_SZ(wanted));
        let has = fcntl(&inlet, FcntlArg::F_GETPIPE_SZ).ok()?;
        let is_worth_it = usize::try_from(has).is_ok_and(|has| has >= BUFFER_BYTES);
        is_worth_it.then_some(Self { inlet, outlet })
    }

    /// Takes as much of what has come as it holds, in one call.
    pub(super) fn fill(self, from: &TcpStream) -> Filling {
        match step(from, &self.inlet, PIPE_BYTES) {
            Ok(0) => Filling::Nothing(self),
            Ok(count) => Filling::Some(Filled { pipe: self, count }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Filling::Nothing(self),
            Err(error) => Filling::Broken(error),
        }
    }
}

/// A pipe with so many bytes in it.
#[derive(Debug)]
pub(super) struct Filled {
    pipe: Pipe,
    count: usize,
}

impl Filled {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Hands all of it on, and is the empty pipe again.
    ///
    /// # Errors
    /// When the connection has broken.
    pub(super) async fn empty(self, to: &TcpStream) -> io::Result<Pipe> {
        let mut left = self.count;
        while left > 0 {
            let moved = to
                .async_io(Interest::WRITABLE, || step(&self.pipe.outlet, to, left))
                .await?;
            if moved == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            left = left.saturating_sub(moved);
        }
        Ok(self.pipe)
    }
}

fn step(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    Ok(splice(from, None, to, None, most, flags)?)
}

#[cfg(test)]
impl Pipes {
    /// How many wait to be used.
    pub(super) fn spares(&self) -> usize {
        self.spare().len()
    }
}
