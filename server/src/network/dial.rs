//! Connections from this process to guests.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;

use async_trait::async_trait;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tokio::net::{TcpSocket, TcpStream};

use super::worker::Worker;
use super::{Namespace, NetworkError, namespace};

/// Opens connections to guests.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// Connects to a guest's address.
    ///
    /// # Errors
    /// When the guest does not take the connection.
    async fn dial(&self, to: SocketAddrV4) -> std::io::Result<TcpStream>;
}

/// Dials from the calling process's own namespace: for simulated guests, which are on loopback.
#[derive(Debug, Clone, Copy, Default)]
pub struct DirectDialer;

#[async_trait]
impl Dial for DirectDialer {
    async fn dial(&self, to: SocketAddrV4) -> std::io::Result<TcpStream> {
        TcpStream::connect(to).await
    }
}

/// Dials from the VMs' namespace.
#[derive(Debug, Clone)]
pub struct NamespaceDialer {
    worker: Worker,
}

impl NamespaceDialer {
    /// Starts the thread that makes the sockets.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn new(namespace: &Namespace) -> Result<Self, NetworkError> {
        let object = namespace::handle(namespace.object())?;
        Worker::start("dialer", object).map(|worker| Self { worker })
    }
}

#[async_trait]
impl Dial for NamespaceDialer {
    async fn dial(&self, to: SocketAddrV4) -> std::io::Result<TcpStream> {
        // A socket belongs for good to the namespace of the thread that made it. Only making it has
        // to happen over there; connecting, which may take long, is done here and blocks nobody.
        let made = self.worker.run(make_socket).await;
        let socket = made.map_err(std::io::Error::other)??;
        TcpSocket::from_std_stream(socket.into())
            .connect(to.into())
            .await
    }
}

fn make_socket() -> std::io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(socket(AddressFamily::Inet, SockType::Stream, flags, None)?)
}
