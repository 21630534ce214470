//! The TLS port. Whoever comes without the right certificate costs a handshake and no more.

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::console::say;
use crate::proxy;
use crate::traffic::{Exchange, Traffic};

/// Handshakes under way at a time; for one more, the oldest is hung up on.
const MAX_HANDSHAKES: usize = 128;

/// Clients at a time; more are hung up on.
const MAX_CONNECTIONS: u32 = 1024;

/// Time for a handshake. Whoever is slower wants to hold a place, not to talk.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// How long a client that failed may take to read why, before its connection is reset. Merely closed,
/// it would hold its place in the relay for as long as it likes.
const FAREWELL: Duration = Duration::from_secs(1);

/// Pause after a connection that could not be accepted (no file descriptor left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listener, as seen by whoever wants to know what its clients do.
#[derive(Clone, Default)]
pub(crate) struct Clients {
    open: Arc<AtomicU32>,
    traffic: Arc<Traffic>,
}

impl Clients {
    /// TLS connections that are open now.
    pub(crate) fn count(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// What they do.
    pub(crate) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Counts one more until the guard is dropped, unless there are too many.
    fn enter(&self) -> Option<Place> {
        let more = |count| (count < MAX_CONNECTIONS).then_some(count + 1);
        self.open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()
            .map(|_| Place(Arc::clone(&self.open)))
    }
}

struct Place(Arc<AtomicU32>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Listens on `port` of `address`, and brings each client that proves itself to the Unix socket
/// `docker`. Returns the port once it listens; serves in the background from then on.
///
/// # Errors
/// The port is taken.
pub(crate) async fn start(
    (address, port): (Ipv4Addr, u16),
    config: ServerConfig,
    docker: Arc<Path>,
    clients: Clients,
) -> io::Result<u16> {
    let listener = TcpListener::bind((address, port)).await?;
    let port = listener.local_addr()?.port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        let mut handshakes: VecDeque<CancelOnDrop> = VecDeque::new();
        loop {
            match listener.accept().await {
                Ok((tcp, _)) => {
                    handshakes.retain(|handshake| !handshake.is_over());
                    if handshakes.len() >= MAX_HANDSHAKES {
                        handshakes.pop_front();
                    }
                    let (keep, kept) = oneshot::channel();
                    handshakes.push_back(CancelOnDrop(keep));
                    let (acceptor, docker) = (acceptor.clone(), Arc::clone(&docker));
                    tokio::spawn(serve(tcp, acceptor, docker, clients.clone(), kept));
                }
                Err(error) => {
                    say!("cannot accept a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    Ok(port)
}

/// A handshake under way; dropping it ends the handshake.
struct CancelOnDrop(oneshot::Sender<()>);

impl CancelOnDrop {
    fn is_over(&self) -> bool {
        self.0.is_closed()
    }
}

/// One client from the first byte to the last. Its troubles are its own: nothing is logged, because
/// anybody who reaches the port could fill the slow console.
async fn serve(
    tcp: TcpStream,
    acceptor: TlsAcceptor,
    docker: Arc<Path>,
    clients: Clients,
    kept: oneshot::Receiver<()>,
) {
    let _ = tcp.set_nodelay(true);
    // Until the handshake is done, the end of a connection is a reset.
    let _ = linger(&tcp, true);
    let tls = tokio::select! {
        biased;
        _ = kept => return,
        done = timeout(HANDSHAKE_PATIENCE, acceptor.accept(tcp).into_fallible()) => match done {
            Ok(Ok(tls)) => tls,
            Ok(Err((_, mut tcp))) => {
                let _ = tcp.shutdown().await;
                let _ = timeout(FAREWELL, tcp.read(&mut [0])).await;
                return;
            }
            Err(_) => return,
        },
    };
    let _ = linger(tls.get_ref().0, false);
    let Some(_place) = clients.enter() else {
        return;
    };
    // While the daemon is being started again nobody answers; the client sees the connection close.
    let Ok(docker) = UnixStream::connect(docker).await else {
        return;
    };
    let _ = proxy::relay(tls, docker, &Exchange::new(clients.traffic())).await;
}

/// Whether closing the connection is to throw away what is on the way and to reset it.
fn linger(tcp: &TcpStream, reset: bool) -> nix::Result<()> {
    let linger = libc::linger {
        l_onoff: reset.into(),
        l_linger: 0,
    };
    setsockopt(tcp, sockopt::Linger, &linger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_so_many_and_a_place_is_given_back() {
        let clients = Clients::default();
        let mut places: Vec<Place> = (0..MAX_CONNECTIONS)
            .filter_map(|_| clients.enter())
            .collect();
        assert_eq!(clients.count(), MAX_CONNECTIONS);
        assert!(clients.enter().is_none());
        assert_eq!(clients.count(), MAX_CONNECTIONS);
        places.pop();
        assert!(clients.enter().is_some());
    }
}
