//! The host's end of the agents' channels: a Unix socket per VM on which QEMU takes one connection at
//! a time. Another one waits unseen until the first ends, so the first is ended.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use crate::hypervisor::HypervisorError;
use crate::ids::VmId;

/// A second handle of each VM's latest connection, to end it with.
#[derive(Debug, Default)]
pub(super) struct Channels(Mutex<HashMap<VmId, StdStream>>);

impl Channels {
    /// Connects to the VM's channel, ending the connection that was there.
    ///
    /// # Errors
    /// When nobody listens, which means that the VM does not run.
    pub(super) async fn open(
        &self,
        vm: VmId,
        path: &Path,
    ) -> Result<AgentChannel, HypervisorError> {
        let failed = |source: io::Error| match source.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                HypervisorError::NotRunning { vm }
            }
            _ => HypervisorError::File {
                doing: "connect to",
                path: path.to_owned(),
                source,
            },
        };
        self.close(vm);
        let stream = UnixStream::connect(path).await.map_err(failed)?;
        let handle = stream.as_fd().try_clone_to_owned().map_err(failed)?;
        if let Some(former) = self.latest().insert(vm, handle.into()) {
            end(&former);
        }
        Ok(AgentChannel(stream))
    }

    /// Ends the VM's connection, if there is one.
    pub(super) fn close(&self, vm: VmId) {
        if let Some(former) = self.latest().remove(&vm) {
            end(&former);
        }
    }

    fn latest(&self) -> std::sync::MutexGuard<'_, HashMap<VmId, StdStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn end(stream: &StdStream) {
    // Fails only when the other side ended it first.
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

/// A connection. Ends when it is dropped, although there is a second handle.
#[derive(Debug)]
pub(super) struct AgentChannel(UnixStream);

impl Drop for AgentChannel {
    fn drop(&mut self) {
        use std::os::fd::AsRawFd;
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }
}

impl AsyncRead for AgentChannel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for AgentChannel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_new_connection_ends_the_old_and_a_dropped_one_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let vm = VmId::from_bits(1);
        let channels = Channels::default();
        let error = channels.open(vm, &path).await.unwrap_err();
        assert!(matches!(error, HypervisorError::NotRunning { .. }));

        let qemu = UnixListener::bind(&path).unwrap();
        let mut first = channels.open(vm, &path).await.unwrap();
        let (mut first_end, _) = qemu.accept().await.unwrap();
        first.write_all(b"hello").await.unwrap();
        let mut hello = [0; 5];
        first_end.read_exact(&mut hello).await.unwrap();

        let second = channels.open(vm, &path).await.unwrap();
        let mut buffer = [0; 1];
        assert_eq!(first.read(&mut buffer).await.unwrap(), 0);
        assert_eq!(first_end.read(&mut buffer).await.unwrap(), 0);

        let (mut second_end, _) = qemu.accept().await.unwrap();
        drop(second);
        assert_eq!(second_end.read(&mut buffer).await.unwrap(), 0);

        let mut third = channels.open(vm, &path).await.unwrap();
        channels.close(vm);
        assert_eq!(third.read(&mut buffer).await.unwrap(), 0);
        drop(qemu);
        let error = channels.open(vm, &path).await.unwrap_err();
        assert!(matches!(error, HypervisorError::NotRunning { .. }));
    }
}
