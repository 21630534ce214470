//! Connections from this process to guests.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;

use async_trait::async_trait;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};
use tokio::net::{TcpSocket, TcpStream};

use super::worker::Worker;
use super::{Namespace, NetworkError, namespace};

/// The congestion control of connections to guests.
const WITHOUT_PACING: &str = "reno";

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
        connect(guest_socket()?, to).await
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
        let made = self.worker.run(guest_socket).await;
        let socket = made.map_err(std::io::Error::other)??;
        connect(socket, to).await
    }
}

async fn connect(socket: OwnedFd, to: SocketAddrV4) -> std::io::Result<TcpStream> {
    TcpSocket::from_std_stream(socket.into())
        .connect(to.into())
        .await
}

/// Makes a socket for a connection to a guest, in the namespace of the calling thread.
///
/// A guest is on this host, behind no line that others share: there is no congestion to look out for, and the guest
/// says how much it takes. So it is Reno, which never waits before it sends, whatever the host's default is: one that
/// paces what it sends, such as BBR, sets a timer for every few packets, which is most of what a relayed byte costs. It
/// has to be set before the connection is made: pacing that has begun is not given up.
///
/// # Errors
/// When the system has no socket to give.
pub fn guest_socket() -> std::io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    // Every kernel has it, and everybody may use it. Where one does not, connections are as good, only not as quick.
    let _ = setsockopt(&socket, sockopt::TcpCongestion, &WITHOUT_PACING.into());
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};

    use nix::sys::socket::getsockopt;

    use super::*;

    #[tokio::test]
    async fn a_connection_to_a_guest_is_not_paced_whatever_the_hosts_default_is() {
        let guest = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(address) = guest.local_addr().unwrap() else {
            unreachable!("it was bound to an IPv4 address")
        };
        let stream = DirectDialer.dial(address).await.unwrap();
        let control = getsockopt(&stream, sockopt::TcpCongestion).unwrap();
        assert_eq!(control, WITHOUT_PACING);
    }
}
