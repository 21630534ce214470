//! The running daemon reads its configuration again, and says when it has.

use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::docker::SOCKET;

/// A daemon under software emulation takes a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// Every event that the daemon reads its configuration: `{"event":["reload"],"type":["daemon"]}`.
const REQUEST: &str = "GET /events?filters=%7B%22event%22%3A%5B%22reload%22%5D%2C%22type%22%3A%5B%22daemon%22%5D%7D \
                       HTTP/1.1\r\nHost: docker\r\n\r\n";

/// Has the daemon read its configuration, and waits until it goes by it.
///
/// # Errors
/// It does not say so in time: it found a fault, which its log tells.
pub(super) async fn reload(dockerd: Pid) -> anyhow::Result<()> {
    timeout(PATIENCE, signalled(dockerd))
        .await
        .with_context(|| {
            format!(
                "the Docker daemon did not take its new configuration within {} s",
                PATIENCE.as_secs()
            )
        })?
}

async fn signalled(dockerd: Pid) -> anyhow::Result<()> {
    let mut events = UnixStream::connect(SOCKET)
        .await
        .context("the Docker daemon cannot be reached")?;
    events.write_all(REQUEST.as_bytes()).await?;
    // From the head of the answer on, no event is missed.
    let mut heard = Heard::default();
    heard.until(&mut events, b"\r\n\r\n").await?;
    if !heard.0.starts_with(b"HTTP/1.1 200 ") {
        bail!("the Docker daemon does not tell its events");
    }
    kill(dockerd, Signal::SIGHUP).context("cannot signal the Docker daemon")?;
    heard.until(&mut events, b"\"reload\"").await
}

/// What came so far, without that was waited for already.
#[derive(Default)]
struct Heard(Vec<u8>);

impl Heard {
    /// Far more than a head or an event.
    const MOST_BYTES: usize = 64 * 1024;

    async fn until(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        wanted: &[u8],
    ) -> anyhow::Result<()> {
        while !self.0.windows(wanted.len()).any(|part| part == wanted) {
            if self.0.len() > Self::MOST_BYTES || stream.read_buf(&mut self.0).await? == 0 {
                bail!("the Docker daemon does not tell its events to the end");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn words_are_found_however_they_are_cut() {
        let (mut near, mut far) = tokio::io::duplex(4);
        let write = async move {
            let text = b"HTTP/1.1 200 OK\r\n\r\n5\r\n{\"Action\":\"reload\"}";
            far.write_all(text).await.unwrap();
            far
        };
        let read = async {
            let mut heard = Heard::default();
            heard.until(&mut near, b"\r\n\r\n").await.unwrap();
            heard.until(&mut near, b"\"reload\"").await.unwrap();
        };
        let _ = tokio::join!(write, read);
    }

    #[tokio::test]
    async fn an_end_before_is_an_error() {
        let mut heard = Heard::default();
        assert!(
            heard
                .until(&mut &b"HTTP/1.1 200 OK\r\n"[..], b"\r\n\r\n")
                .await
                .is_err()
        );
    }
}
