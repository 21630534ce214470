//! Bytes between a client and the Docker daemon, in both directions until both have ended.
//!
//! A Docker stream may end in one direction and go on in the other: `docker run -i` closes its input
//! and still wants the output. So the end of one direction is passed on (close-notify to and from
//! shutting down the writing half of the socket) and is not the end of the connection.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::pin::pin;
use std::time::Duration;

use nix::poll::PollFlags;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::readiness;
use crate::traffic::Exchange;

/// Buffer of each direction.
const BUFFER_BYTES: usize = 64 * 1024;

/// How long a client may take to read the last bytes of a daemon that hung up. If the connection were
/// closed with bytes of the client still unread, the kernel would reset it, and the daemon's last
/// answer could be lost on the way.
const LINGER: Duration = Duration::from_secs(5);

/// Copies until both directions have ended, and tells `exchange` of each buffer.
///
/// # Errors
/// The client broke off (without a close-notify, for instance). There is nothing left to do then.
pub(crate) async fn relay(
    client: impl AsyncRead + AsyncWrite,
    mut docker: UnixStream,
    exchange: &Exchange,
) -> io::Result<()> {
    let (client_reader, client_writer) = tokio::io::split(client);
    let docker_fd = docker.as_fd().try_clone_to_owned()?;
    let (docker_reader, docker_writer) = docker.split();
    let mut upward = pin!(client_to_docker(client_reader, docker_writer, exchange));
    let mut downward = pin!(docker_to_client(docker_reader, client_writer, exchange));
    tokio::select! {
        ended = &mut upward => {
            ended?;
            downward.await
        }
        ended = &mut downward => {
            ended?;
            if hung_up(docker_fd.as_fd())? {
                timeout(LINGER, upward).await.unwrap_or(Ok(()))
            } else {
                upward.await
            }
        }
    }
}

async fn client_to_docker(
    mut client: impl AsyncRead + Unpin,
    mut docker: impl AsyncWrite + Unpin,
    exchange: &Exchange,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut docker_listens = true;
    loop {
        let count = client.read(&mut buffer).await?;
        if count == 0 {
            // A daemon that hung up needs no end of input.
            let _ = docker.shutdown().await;
            return Ok(());
        }
        exchange.upward(&buffer[..count]);
        // What a daemon that hung up does not take is read all the same, for LINGER's reason.
        docker_listens = docker_listens && docker.write_all(&buffer[..count]).await.is_ok();
    }
}

async fn docker_to_client(
    mut docker: impl AsyncRead + Unpin,
    mut client: impl AsyncWrite + Unpin,
    exchange: &Exchange,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = match docker.read(&mut buffer).await {
            Ok(count) => count,
            // It hung up before it had read everything; all that it had sent came before this.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(error),
        };
        if count == 0 {
            return client.shutdown().await;
        }
        exchange.downward(&buffer[..count]);
        client.write_all(&buffer[..count]).await?;
        client.flush().await?;
    }
}

/// Whether the other end is closed, and not merely done with writing.
fn hung_up(socket: std::os::fd::BorrowedFd<'_>) -> io::Result<bool> {
    let events = readiness::now(socket, PollFlags::empty())?;
    Ok(events.contains(PollFlags::POLLHUP))
}
