//! Moves bytes of a connection in one direction until it ends.
//!
//! Small exchanges go through a buffer. A stream that fills it is one of many bytes, such as a build's context
//! or an image: from then on its bytes go from socket to socket by way of a pipe in the kernel (`pipes.rs`),
//! and are not copied through this process. It has neither a buffer then nor, while nothing comes, a pipe.

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};
use tokio::net::TcpStream;

use super::pipes::{Filling, Pipes};

pub(super) const BUFFER_BYTES: usize = 64 * 1024;

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
    pipes: &Pipes,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut is_of_many_bytes = false;
    loop {
        // Where both ends are always ready, nothing else would let others have their turn.
        tokio::task::coop::consume_budget().await;
        let moved = if is_of_many_bytes {
            move_by(pipes, from, to, &told.came).await?
        } else {
            None
        };
        let count = match moved {
            Some(count) => {
                buffer = Vec::new();
                count
            }
            None => copy_by(&mut buffer, from, to, &told.came).await?,
        };
        if count == 0 {
            return end(to);
        }
        (told.went)();
        is_of_many_bytes |= count == BUFFER_BYTES && (told.may_pipe)();
        if moved.is_some() {
            // Others have their turn after each pipe, however ready both ends are. What comes meanwhile goes in one
            // call and not in several.
            tokio::task::yield_now().await;
        }
    }
}

/// Answers how many bytes came; none at the end.
async fn copy_by(
    buffer: &mut Vec<u8>,
    from: &TcpStream,
    to: &TcpStream,
    came: impl Fn(),
) -> io::Result<usize> {
    buffer.resize(BUFFER_BYTES, 0);
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

/// The same by way of a pipe. Where none can be had, it has moved nothing.
async fn move_by(
    pipes: &Pipes,
    from: &TcpStream,
    to: &TcpStream,
    came: impl Fn(),
) -> io::Result<Option<usize>> {
    let mut few = [0; FEW_BYTES];
    loop {
        from.readable().await?;
        let Some(pipe) = pipes.take() else {
            return Ok(None);
        };
        match pipe.fill(from) {
            Filling::Some(filled) => {
                came();
                let count = filled.count();
                pipes.give(filled.empty(to).await?);
                return Ok(Some(count));
            }
            Filling::Broken(error) => return Err(error),
            // A read tells what it is.
            Filling::Nothing(pipe) => {
                pipes.give(pipe);
                match from.try_read(&mut few) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => {
                        let count = read?;
                        write(to, few.get(..count).unwrap_or_default()).await?;
                        return Ok(Some(count));
                    }
                }
            }
        }
    }
}

fn end(stream: &TcpStream) -> io::Result<()> {
    match shutdown(stream.as_raw_fd(), Shutdown::Write) {
        // It was reset after it had said all that it had to say: there is nobody left to tell.
        Ok(()) | Err(Errno::ENOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
