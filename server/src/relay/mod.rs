//! The relay: a TCP port for each active lease, whose bytes go to its guest. It knows the routes that
//! the reconciler publishes and nothing else. What it carries is encrypted between the two ends; it
//! neither reads nor changes it.

mod accept;
mod carry;
mod connection;
mod gate;
mod hall;
mod pipes;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};
use remote_docker_api::LeaseId;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::network::Dial;
use gate::Gate;
use hall::Hall;
use pipes::Pipes;

/// A port that leads to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Route {
    /// The lease whose holder connects here.
    pub lease: LeaseId,
    /// TCP port on the relay's listen address.
    pub port: u16,
    /// Where the bytes go.
    pub guest: SocketAddrV4,
}

/// What a lease may use of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections that a lease may have at a time, over all its ports. Each takes two file
    /// descriptors and 128 KiB. A direction that has carried many bytes takes 64 KiB less, and while bytes are
    /// on their way in it, a pipe of 512 KiB with two more descriptors. One more connection is reset.
    pub connections_per_lease: usize,
    /// Connections of a port whose client has not yet gone on after the guest's first answer, as whoever
    /// does a TLS handshake must. They count as none of the lease's and take as much each, without pipes; of one too
    /// many, the oldest is reset.
    pub handshakes_per_port: usize,
    /// How long a client may take to say something, after which it is reset.
    pub silence: Duration,
    /// How long it may take from its connection until it goes on after the guest's first answer, after
    /// which it is reset. The guest has a bound of its own for the whole handshake; this one holds
    /// whatever the guest does.
    pub handshake: Duration,
    /// How long a guest may take to answer a connection.
    pub dial_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_lease: 256,
            handshakes_per_port: 128,
            silence: Duration::from_secs(5),
            handshake: Duration::from_secs(15),
            dial_timeout: Duration::from_secs(5),
        }
    }
}

/// A route that could not be opened.
#[derive(Debug)]
pub struct Unopened {
    /// The route.
    pub route: Route,
    /// Why not: mostly that something else on the host listens on its port.
    pub error: io::Error,
}

/// The relay. Clones are handles to the same one; it stops when the last is dropped.
#[derive(Clone)]
pub struct Relay {
    inner: Arc<Inner>,
}

struct Inner {
    carrier: Arc<connection::Carrier>,
    listen: Ipv4Addr,
    limits: Limits,
    runtime: Handle,
    state: Mutex<State>,
}

/// Written by [`Relay::change`], [`Relay::publish`], [`Relay::reserve`] and the drop of a [`Reservation`]
/// only.
#[derive(Default)]
struct State {
    open: HashMap<Route, Door>,
    reserved: HashMap<u16, TcpListener>,
    /// Those of leases with open routes, and how many these are.
    gates: HashMap<LeaseId, (Arc<Gate>, usize)>,
}

impl State {
    /// The gate of a lease that has one more route.
    fn enter_gate(&mut self, lease: LeaseId, connections: usize) -> Arc<Gate> {
        let new = || (Arc::new(Gate::new(connections)), 0);
        let (gate, routes) = self.gates.entry(lease).or_insert_with(new);
        *routes += 1;
        Arc::clone(gate)
    }

    /// A lease has one route less.
    fn leave_gate(&mut self, lease: LeaseId) {
        if let Some((_, routes)) = self.gates.get_mut(&lease) {
            *routes -= 1;
            if *routes == 0 {
                self.gates.remove(&lease);
            }
        }
    }
}

impl Relay {
    /// A relay without routes that will listen on `listen`. Call it within a Tokio runtime, which
    /// then runs the connections.
    #[must_use]
    pub fn new(dialer: Arc<dyn Dial>, listen: Ipv4Addr, limits: Limits) -> Self {
        let carrier = connection::Carrier {
            dialer,
            dial_timeout: limits.dial_timeout,
            pipes: Pipes::default(),
        };
        Self {
            inner: Arc::new(Inner {
                carrier: Arc::new(carrier),
                listen,
                limits,
                runtime: Handle::current(),
                state: Mutex::default(),
            }),
        }
    }

    /// Takes a port before a lease is promised it. Who connects waits until a route for the port is
    /// published; if the reservation is dropped first, the port is free again.
    ///
    /// # Errors
    /// When the port is taken, by this relay or by anything else on the host.
    pub async fn reserve(&self, port: u16) -> io::Result<Reservation> {
        let mut state = self.inner.state();
        let listener = accept::listen(SocketAddrV4::new(self.inner.listen, port))?;
        state.reserved.insert(port, listener);
        Ok(Reservation {
            port,
            relay: Arc::downgrade(&self.inner),
        })
    }

    /// Makes these the routes, and closes all others.
    ///
    /// Returns the routes that could not be opened, as [`Self::change`] does.
    pub fn publish(&self, routes: impl IntoIterator<Item = Route>) -> Vec<Unopened> {
        let routes: HashSet<Route> = routes.into_iter().collect();
        let mut state = self.inner.state();
        let is_gone = |route: &&Route| !routes.contains(route);
        let closed: Vec<Route> = state.open.keys().filter(is_gone).copied().collect();
        self.inner.change(&mut state, &closed, routes)
    }

    /// Closes routes, with all their connections, at once, and opens others; one that is open already
    /// stays as it is. Returns the routes that could not be opened; to name them again tries them again.
    pub fn change(
        &self,
        closed: &[Route],
        opened: impl IntoIterator<Item = Route>,
    ) -> Vec<Unopened> {
        let mut state = self.inner.state();
        self.inner.change(&mut state, closed, opened)
    }

    /// How many connections the lease has now, without those in their handshakes.
    #[must_use]
    pub fn connections(&self, lease: LeaseId) -> usize {
        self.inner
            .state()
            .gates
            .get(&lease)
            .map_or(0, |(gate, _)| gate.count())
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("listen", &self.inner.listen)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// No code panics while it holds the state, and every change of it is one step: what a panic
    /// would leave is consistent.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(
        &self,
        state: &mut State,
        closed: &[Route],
        opened: impl IntoIterator<Item = Route>,
    ) -> Vec<Unopened> {
        // First close, so that a port can go over to another lease.
        for route in closed {
            if state.open.remove(route).is_some() {
                state.leave_gate(route.lease);
            }
        }
        let missing: Vec<Route> = opened
            .into_iter()
            .filter(|route| !state.open.contains_key(route))
            .collect();
        let open = |route| match self.open(state, route) {
            Ok(()) => None,
            Err(error) => Some(Unopened { route, error }),
        };
        missing.into_iter().filter_map(open).collect()
    }

    fn open(&self, state: &mut State, route: Route) -> io::Result<()> {
        let listener = match state.reserved.remove(&route.port) {
            Some(listener) => listener,
            None => {
                // Listeners belong to the runtime, which the publisher need not be in.
                let _context = self.runtime.enter();
                accept::listen(SocketAddrV4::new(self.listen, route.port))?
            }
        };
        let gate = state.enter_gate(route.lease, self.limits.connections_per_lease);
        let door = Door {
            listener: Arc::new(listener),
            cut: CancellationToken::new(),
        };
        self.runtime.spawn(accept::run(accept::Port {
            listener: Arc::clone(&door.listener),
            route,
            gate,
            hall: Arc::new(Hall::new(self.limits.handshakes_per_port)),
            silence: self.limits.silence,
            handshake: self.limits.handshake,
            carrier: Arc::clone(&self.carrier),
            cut: door.cut.clone(),
        }));
        state.open.insert(route, door);
        Ok(())
    }
}

/// An open route. Dropping it closes the port and cuts the connections.
struct Door {
    listener: Arc<TcpListener>,
    cut: CancellationToken,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.cut.cancel();
        // The task that accepts holds the listener too and ends a little later. Shutting it down makes
        // the kernel refuse connections, and give the port to the next one, from this moment on.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
    }
}

/// A port that is kept for a lease. Dropping it gives the port back, unless a route uses it by now.
#[derive(Debug)]
#[must_use = "the port is free again when the reservation is dropped"]
pub struct Reservation {
    port: u16,
    relay: Weak<Inner>,
}

impl Reservation {
    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(relay) = self.relay.upgrade() {
            relay.state().reserved.remove(&self.port);
        }
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Relay")
    }
}
