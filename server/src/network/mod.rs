//! The network of the VMs: one private namespace that holds nothing but them.

mod error;

pub use error::NetworkError;

use std::net::SocketAddrV4;

use async_trait::async_trait;
use tokio::net::TcpStream;

/// Opens connections to guests.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// Connects to a guest's address.
    ///
    /// # Errors
    /// When the guest does not take the connection.
    async fn dial(&self, to: SocketAddrV4) -> std::io::Result<TcpStream>;
}
