//! One connection: dials the guest and copies in both directions until both have ended.
//!
//! A direction that ends is ended on the other side too, while the opposite one goes on; Docker's
//! attached streams rely on that. A connection that breaks is *reset* on the other side, so that what
//! was cut short is never taken for complete.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::Route;
use crate::network::Dial;

/// In each direction.
const BUFFER_BYTES: usize = 64 * 1024;

/// A peer that vanished without a word is noticed after `idle + interval × count`: two minutes. A
/// stream without traffic, such as `docker events`, is not disturbed.
const KEEPALIVE_IDLE_S: u32 = 60;
const KEEPALIVE_INTERVAL_S: u32 = 15;
const KEEPALIVE_COUNT: u32 = 4;

/// What all connections share.
pub(super) struct Carrier {
    pub dialer: Arc<dyn Dial>,
    pub dial_timeout: Duration,
}

/// Carries one connection until it ends or is cut.
pub(super) async fn run(
    carrier: Arc<Carrier>,
    mut client: TcpStream,
    route: Route,
    cut: CancellationToken,
) {
    let dialed = tokio::select! {
        biased;
        () = cut.cancelled() => return reset(client),
        dialed = carrier.dial(route) => dialed,
    };
    let mut guest = match dialed {
        Ok(guest) => guest,
        Err(error) => {
            tracing::debug!(
                lease = %route.lease, guest = %route.guest, %error,
                "guest of lease {} does not take a connection", route.lease
            );
            return reset(client);
        }
    };
    if let Err(error) = tune(&client).and_then(|()| tune(&guest)) {
        tracing::debug!(lease = %route.lease, %error, "could not tune a connection");
    }
    let whole = tokio::select! {
        biased;
        () = cut.cancelled() => false,
        copied = copy_bidirectional_with_sizes(&mut client, &mut guest, BUFFER_BYTES, BUFFER_BYTES) => {
            copied.is_ok()
        }
    };
    if !whole {
        reset(client);
        reset(guest);
    }
}

/// Closes a connection so that the peer sees it as broken, not as ended.
pub(super) fn reset(stream: TcpStream) {
    // If it fails, the connection is gone already.
    let _ = stream.set_zero_linger();
}

impl Carrier {
    async fn dial(&self, route: Route) -> io::Result<TcpStream> {
        match tokio::time::timeout(self.dial_timeout, self.dialer.dial(route.guest)).await {
            Ok(dialed) => dialed,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    // Requests and answers are small and follow each other; waiting for more to send only costs time.
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_COUNT)?;
    Ok(())
}
