//! Tells when a client and its guest have begun to talk to each other: the client said something, the guest
//! answered, and the client went on. In TLS that is the end of the handshake on the client's side, and a
//! client gets there only by reading what the guest has sent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// The client's end of a connection, which notes whose turn it was.
#[derive(Debug)]
pub(super) struct Turns {
    client: TcpStream,
    answered: bool,
    talking: CancellationToken,
}

impl Turns {
    pub(super) fn new(client: TcpStream) -> Self {
        Self {
            client,
            answered: false,
            talking: CancellationToken::new(),
        }
    }

    /// Cancelled as soon as the client has gone on after an answer.
    pub(super) fn talking(&self) -> CancellationToken {
        self.talking.clone()
    }

    pub(super) fn into_client(self) -> TcpStream {
        self.client
    }
}

impl AsyncRead for Turns {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.client).poll_read(cx, buffer))?;
        if self.answered && buffer.filled().len() > before {
            self.talking.cancel();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Turns {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.client).poll_write(cx, bytes))?;
        self.answered |= written > 0;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.client).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.client).poll_shutdown(cx)
    }
}
