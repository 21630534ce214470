//! One port: takes connections and starts a task for each.

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use super::Route;
use super::connection::{self, Carrier, Doubt};
use super::gate::{Full, Gate};
use super::hall::{Hall, Wait};

/// Connections that may wait to be taken; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: u32 = 1024;
/// Pause after the system could not hand a connection out, mostly for want of file descriptors. The
/// connection stays in the queue.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts listening; nothing is taken yet.
pub(super) fn listen(address: SocketAddrV4) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // Connections that ended a moment ago keep the port otherwise, also over a restart.
    socket.set_reuseaddr(true)?;
    socket.bind(address.into())?;
    socket.listen(BACKLOG)
}

/// What the task of a port works with.
pub(super) struct Port {
    pub listener: Arc<TcpListener>,
    pub route: Route,
    pub gate: Arc<Gate>,
    pub hall: Arc<Hall>,
    pub silence: Duration,
    pub handshake: Duration,
    pub carrier: Arc<Carrier>,
    pub cut: CancellationToken,
}

/// Takes connections until the route is gone.
pub(super) async fn run(port: Port) {
    let port = Arc::new(port);
    let Port { route, cut, .. } = &*port;
    let mut failing = false;
    loop {
        let taken = tokio::select! {
            biased;
            () = cut.cancelled() => return,
            taken = port.listener.accept() => taken,
        };
        let client = match taken {
            Ok((client, _)) => client,
            // The client has gone away again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                if !failing {
                    tracing::warn!(
                        lease = %route.lease, port = route.port, %error,
                        "cannot take connections for lease {} at the moment; trying again", route.lease
                    );
                }
                failing = true;
                tokio::select! {
                    () = cut.cancelled() => return,
                    () = tokio::time::sleep(PAUSE) => continue,
                }
            }
        };
        failing = false;
        let wait = port.hall.enter().await;
        tokio::spawn(attend(Arc::clone(&port), client, wait));
    }
}

/// One connection from its beginning to its end.
async fn attend(port: Arc<Port>, client: TcpStream, wait: Wait) {
    let Port { route, cut, .. } = &*port;
    // For all of the handshake, so that no sum of short pauses is a long one.
    let late = tokio::time::sleep(port.handshake);
    let mut first = [0];
    // Looks only: the byte is the guest's.
    let said = tokio::select! {
        biased;
        () = cut.cancelled() => return connection::reset(client),
        () = wait.leave.cancelled() => return connection::reset(client),
        said = tokio::time::timeout(port.silence, client.peek(&mut first)) => said,
    };
    if !matches!(said, Ok(Ok(1))) {
        return connection::reset(client);
    }
    let admit = || match port.gate.enter() {
        Ok(counted) => Some(counted),
        Err(Full { first, limit }) => {
            if first {
                tracing::warn!(
                    lease = %route.lease, limit,
                    "lease {} has {limit} connections, its limit; further ones are reset",
                    route.lease
                );
            }
            None
        }
    };
    let doubt = Doubt { wait, late, admit };
    connection::run(&port.carrier, client, *route, cut, doubt).await;
}
