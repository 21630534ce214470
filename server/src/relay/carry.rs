//! Moves bytes of a connection in one direction until it ends.
//!
//! Small exchanges go through a buffer. A stream that fills it is one of many bytes, such as a build's context
//! or an image: from then on its bytes go from socket to socket by way of a pipe in the kernel, `splice(2)`,
//! and are not copied through this process. Few connections ever get there, so the others hold no pipe.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

const BUFFER_BYTES: usize = 64 * 1024;

/// What the pipe is to hold: packets of a machine take a page of it each. With more, one stream would keep a
/// thread to itself for longer than others should wait for it.
const PIPE_BYTES: usize = 256 * 1024;

/// Moves what comes from one end to the other, and then ends the direction there too. Tells of each piece
/// that was moved.
///
/// # Errors
/// When either end has broken.
pub(super) async fn carry(from: &TcpStream, to: &TcpStream, moved: impl Fn()) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut pipe = None;
    loop {
        let count = match &pipe {
            Some(pipe) => move_by(pipe, from, to).await?,
            None => copy_by(&mut buffer, from, to).await?,
        };
        if count == 0 {
            return end(to);
        }
        moved();
        if pipe.is_none() && count == BUFFER_BYTES {
            // Where no pipe can be had, the buffer does.
            pipe = Pipe::new().ok();
            if pipe.is_some() {
                buffer = Vec::new();
            }
        }
    }
}

/// Answers how many bytes came; none at the end.
async fn copy_by(buffer: &mut [u8], from: &TcpStream, to: &TcpStream) -> io::Result<usize> {
    let count = loop {
        from.readable().await?;
        match from.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => break read?,
        }
    };
    let mut left = buffer.get(..count).unwrap_or_default();
    while !left.is_empty() {
        to.writable().await?;
        match to.try_write(left) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => left = left.get(written?..).unwrap_or_default(),
        }
    }
    Ok(count)
}

/// The same by way of the pipe, which is empty before and afterwards.
async fn move_by(pipe: &Pipe, from: &TcpStream, to: &TcpStream) -> io::Result<usize> {
    let count = from
        .async_io(Interest::READABLE, || step(from, &pipe.inlet, PIPE_BYTES))
        .await?;
    let mut left = count;
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
    let how = nix::sys::socket::Shutdown::Write;
    Ok(nix::sys::socket::shutdown(stream.as_raw_fd(), how)?)
}

struct Pipe {
    inlet: OwnedFd,
    outlet: OwnedFd,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (outlet, inlet) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // With less it works as well, in smaller steps.
        let _ = fcntl(
            &inlet,
            FcntlArg::F_SETPIPE_SZ(PIPE_BYTES.try_into().unwrap_or(i32::MAX)),
        );
        Ok(Self { inlet, outlet })
    }
}
