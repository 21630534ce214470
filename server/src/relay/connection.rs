//! One connection: dials the guest and copies in both directions until both have ended.
//!
//! A direction that ends is ended on the other side too, while the opposite one goes on; Docker's
//! attached streams rely on that. A connection that breaks is *reset* on the other side, so that what
//! was cut short is never taken for complete.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::Route;
use super::carry::{Told, carry};
use super::gate::Pass;
use super::hall::Wait;
use super::pipes::Pipes;
use super::turns::Turns;
use crate::network::Dial;

/// A peer that vanished without a word is noticed after `idle + interval × count`: two minutes. A
/// stream without traffic, such as `docker events`, is not disturbed.
const KEEPALIVE_IDLE_S: u32 = 60;
const KEEPALIVE_INTERVAL_S: u32 = 15;
const KEEPALIVE_COUNT: u32 = 4;

/// What all connections share.
pub(super) struct Carrier {
    pub dialer: Arc<dyn Dial>,
    pub dial_timeout: Duration,
    pub pipes: Pipes,
}

/// What holds for a connection until its two ends talk to each other.
pub(super) struct Doubt<L, A> {
    /// Its place among those that may have to make way.
    pub wait: Wait,
    /// When its handshake has taken too long.
    pub late: L,
    /// Gives it one of the lease's places, if there is one.
    pub admit: A,
}

/// Carries one connection until it ends or is cut. It takes a place of the lease only when both ends have
/// been heard and the client has gone on.
pub(super) async fn run(
    carrier: &Carrier,
    client: TcpStream,
    route: Route,
    cut: &CancellationToken,
    doubt: Doubt<impl Future<Output = ()>, impl FnOnce() -> Option<Pass>>,
) {
    let Doubt { wait, late, admit } = doubt;
    let mut late = pin!(late);
    let dialed = tokio::select! {
        biased;
        () = cut.cancelled() => return reset(client),
        () = wait.leave.cancelled() => return reset(client),
        () = &mut late => return reset(client),
        dialed = carrier.dial(route) => dialed,
    };
    let guest = match dialed {
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
    let turns = Turns::default();
    let whole = {
        let copied = async {
            tokio::try_join!(
                carry(
                    &client,
                    &guest,
                    Told {
                        came: || turns.client_spoke(),
                        went: || (),
                        may_pipe: || turns.talking().is_cancelled(),
                    },
                    &carrier.pipes,
                ),
                carry(
                    &guest,
                    &client,
                    Told {
                        came: || (),
                        went: || turns.guest_spoke(),
                        may_pipe: || turns.talking().is_cancelled(),
                    },
                    &carrier.pipes,
                ),
            )
        };
        let mut copied = pin!(copied);
        let ended = tokio::select! {
            biased;
            () = cut.cancelled() => Some(false),
            () = turns.talking().cancelled() => None,
            () = wait.leave.cancelled() => Some(false),
            () = late => Some(false),
            copied = &mut copied => Some(copied.is_ok()),
        };
        drop(wait);
        if let Some(whole) = ended {
            whole
        } else if let Some(_counted) = admit() {
            tokio::select! {
                biased;
                () = cut.cancelled() => false,
                copied = copied => copied.is_ok(),
            }
        } else {
            false
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
