//! The little that the agent itself asks of the Docker daemon.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The daemon's only socket.
pub(crate) const SOCKET: &str = "/run/docker.sock";

/// Where the answer to `GET /_ping` is.
pub(crate) const PING: &str = "/_ping";

/// What a docker CLI asks first.
const HOT_PATHS: &[&str] = &[PING, "/version"];

/// For a daemon that starts: how long one connection may wait, and the pause between two.
const FIRST_ANSWER_PATIENCE: Duration = Duration::from_secs(60);
const FIRST_ANSWER_POLL: Duration = Duration::from_millis(25);

/// Longest answer that is read, in bytes; that of `/info` has a few kilobytes.
const MAX_ANSWER_BYTES: u64 = 1024 * 1024;

/// The daemon did not answer as one that works.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DockerError {
    #[error("the Docker daemon cannot be reached at {SOCKET}")]
    Unreachable(#[source] std::io::Error),
    #[error("the Docker daemon did not answer within {} s", .0.as_secs_f32())]
    Late(Duration),
    #[error("the Docker daemon answered \"{0}\"")]
    Refused(String),
}

/// Asks for `path` over a connection of its own, which is closed when this returns.
///
/// # Errors
/// Anything but an answer with status 200 within `patience`.
pub(crate) async fn get(path: &str, patience: Duration) -> Result<(), DockerError> {
    let answer = timeout(patience, exchange(path))
        .await
        .map_err(|_| DockerError::Late(patience))?
        .map_err(DockerError::Unreachable)?;
    judge(&answer)
}

/// Waits until the daemon answers, however long that takes.
pub(crate) async fn first_answer() {
    // The socket is there before the daemon serves, and a connection to it then waits for that.
    while get(PING, FIRST_ANSWER_PATIENCE).await.is_err() {
        tokio::time::sleep(FIRST_ANSWER_POLL).await;
    }
}

/// Has the daemon do what a first client will ask of it, so that what it needs is in memory, and under
/// software emulation translated.
///
/// # Errors
/// As [`get`].
pub(crate) async fn warm_up(patience: Duration) -> Result<(), DockerError> {
    for path in HOT_PATHS {
        get(path, patience).await?;
    }
    Ok(())
}

async fn exchange(path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(SOCKET).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(MAX_ANSWER_BYTES)
        .read_to_end(&mut answer)
        .await?;
    Ok(answer)
}

fn judge(answer: &[u8]) -> Result<(), DockerError> {
    let status = answer
        .split(|&byte| byte == b'\r')
        .next()
        .unwrap_or_default();
    if status.starts_with(b"HTTP/1.1 200 ") {
        Ok(())
    } else {
        Err(DockerError::Refused(
            String::from_utf8_lossy(status).into_owned(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ok_is_an_answer() {
        assert!(judge(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nOK").is_ok());
        for bad in [
            &b""[..],
            b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
            b"HTTP/1.1 2000 x\r\n",
        ] {
            assert!(matches!(judge(bad), Err(DockerError::Refused(_))));
        }
    }
}
