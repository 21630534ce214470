//! Moves bytes of a connection in one direction until it ends.
//!
//! Small exchanges go through a buffer. A stream that fills it is one of many bytes, such as a build's context
//! or an image: from then on its bytes go from socket to socket by way of a pipe in the kernel, `splice(2)`,
//! and are not copied through this process. It keeps the pipe until it ends. Few connections ever get there, so the
//! others hold none.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::pipe2;
use tokio::io::Interest;
use tokio::net::TcpStream;

const BUFFER_BYTES: usize = 64 * 1024;

/// What the pipe is to hold: packets of a machine take a page of it each. With more, one stream would keep a
/// thread to itself for longer than others should wait for it.
const PIPE_BYTES: usize = 256 * 1024;

/// As much as is read where a pipe takes nothing.
const FEW_BYTES: usize = 512;

/// What is told about a direction.
pub(super) struct Told<C, W, P> {
    /// Something came.
    pub came: C,
    /// It was handed on.
    pub went: W,
    /// Whether it may have a pipe: whoever has not shown who they are may not.
    pub may_pipe: P,
}

/// Moves what comes from one end to the other, and then ends the direction there too.
///
/// # Errors
/// When either end has broken.
pub(super) async fn carry(
    from: &TcpStream,
    to: &TcpStream,
    told: Told<impl Fn(), impl Fn(), impl Fn() -> bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut pipe = None;
    loop {
        // Where both ends are always ready, nothing else would let others have their turn.
        tokio::task::coop::consume_budget().await;
        let count = match &pipe {
            Some(pipe) => move_by(pipe, from, to, &told.came).await?,
            None => copy_by(&mut buffer, from, to, &told.came).await?,
        };
        if count == 0 {
            return end(to);
        }
        (told.went)();
        if pipe.is_none() && count == BUFFER_BYTES && (told.may_pipe)() {
            // Where none can be had, the buffer does.
            pipe = Pipe::new();
            if pipe.is_some() {
                buffer = Vec::new();
            }
        }
    }
}

/// Answers how many bytes came; none at the end.
async fn copy_by(
    buffer: &mut [u8],
    from: &TcpStream,
    to: &TcpStream,
    came: impl Fn(),
) -> io::Result<usize> {
    let count = loop {
        from.readable().await?;
        match from.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => break read?,
        }
    };
    if count > 0 {
        came();
    }
    write(to, buffer.get(..count).unwrap_or_default()).await?;
    Ok(count)
}

async fn write(to: &TcpStream, mut left: &[u8]) -> io::Result<()> {
    while !left.is_empty() {
        to.writable().await?;
        match to.try_write(left) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => left = left.get(written?..).unwrap_or_default(),
        }
    }
    Ok(())
}

/// The same by way of the pipe, which is empty before and afterwards.
async fn move_by(
    pipe: &Pipe,
    from: &TcpStream,
    to: &TcpStream,
    came: impl Fn(),
) -> io::Result<usize> {
    let mut few = [0; FEW_BYTES];
    let mut left = loop {
        from.readable().await?;
        match step(from, &pipe.inlet, PIPE_BYTES) {
            Ok(count) if count > 0 => break count,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            // Nothing is there, or that was all, or there is urgent data, before which a pipe takes nothing: a
            // read tells which.
            _ => match from.try_read(&mut few) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    let count = read?;
                    write(to, few.get(..count).unwrap_or_default()).await?;
                    return Ok(count);
                }
            },
        }
    };
    came();
    let count = left;
    while left > 0 {
        let moved = to
            .async_io(Interest::WRITABLE, || step(&pipe.outlet, to, left))
            .await?;
        if moved == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        left = left.saturating_sub(moved);
    }
    Ok(count)
}

fn step(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    Ok(splice(from, None, to, None, most, flags)?)
}

fn end(stream: &TcpStream) -> io::Result<()> {
    match shutdown(stream.as_raw_fd(), Shutdown::Write) {
        // It was reset after it had said all that it had to say: there is nobody left to tell.
        Ok(()) | Err(Errno::ENOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

struct Pipe {
    inlet: OwnedFd,
    outlet: OwnedFd,
}

impl Pipe {
    /// None where the system has none that is worth having.
    fn new() -> Option<Self> {
        let (outlet, inlet) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
        let wanted = i32::try_from(PIPE_BYTES).ok()?;
        // What can be had is looked at.
        let _ = fcntl(&inlet, FcntlArg::F_SETPIPE_SZ(wanted));
        let has = fcntl(&inlet, FcntlArg::F_GETPIPE_SZ).ok()?;
        let is_worth_it = usize::try_from(has).is_ok_and(|has| has >= BUFFER_BYTES);
        is_worth_it.then_some(Self { inlet, outlet })
    }
}
