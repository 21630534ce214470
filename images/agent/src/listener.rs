//! The TLS port. Whoever comes without the right certificate costs a handshake and no more. Who has it
//! gets to the Docker daemon, or to an SSH daemon of its own if it names that protocol in its handshake
//! (ALPN): one port, one proof, for both.

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rustls::server::Acceptor;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::console::say;
use crate::disk;
use crate::proxy;
use crate::ssh::Sshd;
use crate::tls::{Protocol, ServerConfigs};
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

/// What stands behind the port.
#[derive(Clone)]
pub(crate) struct Backends {
    /// The Docker daemon's Unix socket.
    pub(crate) docker: Arc<Path>,
    pub(crate) sshd: Sshd,
}

/// Listens on `port` of `address`, and brings each client that proves itself to what it asked for.
/// Returns the port once it listens; serves in the background from then on.
///
/// # Errors
/// The port is taken.
pub(crate) async fn start(
    (address, port): (Ipv4Addr, u16),
    configs: ServerConfigs,
    backends: Backends,
    clients: Clients,
) -> io::Result<u16> {
    let listener = TcpListener::bind((address, port)).await?;
    let port = listener.local_addr()?.port();
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
                    let (configs, backends) = (configs.clone(), backends.clone());
                    tokio::spawn(serve(tcp, configs, backends, clients.clone(), kept));
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
    configs: ServerConfigs,
    backends: Backends,
    clients: Clients,
    kept: oneshot::Receiver<()>,
) {
    let _ = tcp.set_nodelay(true);
    // Until the handshake is done, the end of a connection is a reset.
    let _ = linger(&tcp, true);
    let (tls, protocol) = tokio::select! {
        biased;
        _ = kept => return,
        done = timeout(HANDSHAKE_PATIENCE, handshake(tcp, configs)) => match done {
            Ok(Ok(done)) => done,
            Ok(Err(Some(mut tcp))) => {
                // Without an end of its own before the reset: a relay that has seen that end would not
                // see the reset, and keep the connection for as long as its client does.
                let _ = timeout(FAREWELL, tcp.read(&mut [0])).await;
                return;
            }
            Ok(Err(None)) | Err(_) => return,
        },
    };
    let _ = linger(tls.get_ref().0, false);
    let Some(_place) = clients.enter() else {
        return;
    };
    disk::is_used();
    let traffic = clients.traffic();
    let (backend, exchange) = match protocol {
        Protocol::Docker => (
            UnixStream::connect(&backends.docker).await,
            Exchange::new(traffic),
        ),
        Protocol::Ssh => (backends.sshd.connect(), Exchange::lasting(traffic)),
    };
    // While the daemon is being started again nobody answers; the client sees the connection close.
    let Ok(backend) = backend else {
        return;
    };
    let _ = proxy::relay(tls, backend, &exchange).await;
}

/// Ends TLS for a client, and tells what it wants.
///
/// # Errors
/// With the connection, if the client may still want to read why.
async fn handshake(
    tcp: TcpStream,
    configs: ServerConfigs,
) -> Result<(TlsStream<TcpStream>, Protocol), Option<TcpStream>> {
    let mut hello = pin!(LazyConfigAcceptor::new(Acceptor::default(), tcp));
    let start = match hello.as_mut().await {
        Ok(start) => start,
        Err(_) => return Err(hello.take_io()),
    };
    let (config, protocol) = configs.wanted_by(&start.client_hello());
    match start.into_stream(config).into_fallible().await {
        Ok(tls) => Ok((tls, protocol)),
        Err((_, tcp)) => Err(Some(tcp)),
    }
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
