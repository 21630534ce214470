//! The relay on loopback, with guests that are tasks of the test.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use remote_docker_api::LeaseId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::{Limits, Relay, Route};
use crate::network::{Dial, DirectDialer};

mod handshakes;
mod streams;

const LEASE: LeaseId = LeaseId::from_bits(1);
const OTHER: LeaseId = LeaseId::from_bits(2);
const FAR: Duration = Duration::from_secs(20);

/// An address of this test process alone: ports on it are nobody else's.
fn here() -> Ipv4Addr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, a.wrapping_add(1), b, c)
}

fn relay(limits: Limits) -> Relay {
    Relay::new(Arc::new(DirectDialer), here(), limits)
}

fn route(lease: LeaseId, port: u16, guest: SocketAddrV4) -> Route {
    Route { lease, port, guest }
}

/// A guest that does `job` with every connection.
async fn guest<F: Future<Output = ()> + Send>(
    job: impl Fn(TcpStream) -> F + Copy + Send + 'static,
) -> SocketAddrV4 {
    let listener = TcpListener::bind((here(), 0)).await.unwrap();
    let std::net::SocketAddr::V4(address) = listener.local_addr().unwrap() else {
        unreachable!("it was bound to an IPv4 address")
    };
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move { job(stream).await });
        }
    });
    address
}

/// Sends back what it gets, as it comes.
async fn echo(mut stream: TcpStream) {
    let (mut from, mut to) = stream.split();
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

async fn connect(port: u16) -> TcpStream {
    TcpStream::connect((here(), port)).await.unwrap()
}

/// Connects and says something, as TLS clients do first.
async fn speak(port: u16) -> TcpStream {
    let mut stream = connect(port).await;
    stream.write_all(b"x").await.unwrap();
    stream
}

/// Says something, reads the answer, and goes on: by then both ends talk.
async fn echoes(stream: &mut TcpStream) {
    for _ in 0..2 {
        says_it_back(stream).await.unwrap();
    }
}

async fn says_it_back(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"ping").await?;
    let mut answer = [0; 4];
    timeout(FAR, stream.read_exact(&mut answer))
        .await
        .expect("no answer")?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

async fn ends_with(stream: &mut TcpStream) -> Result<usize, ErrorKind> {
    let read = timeout(FAR, stream.read(&mut [0; 64])).await;
    read.expect("the connection neither ended nor said anything")
        .map_err(|error| error.kind())
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let reached = timeout(FAR, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(reached.await.is_ok(), "{what}: never");
}

async fn until_connections(relay: &Relay, lease: LeaseId, wanted: usize) {
    let what = format!("{wanted} connections of {lease}");
    until(&what, || relay.connections(lease) == wanted).await;
}

#[tokio::test]
async fn the_end_of_one_direction_leaves_the_other_open() {
    // Answers only once it has seen the end of the input, as `docker run -i` does.
    let guest = guest(|mut stream| async move {
        let mut input = Vec::new();
        stream.read_to_end(&mut input).await.unwrap();
        stream.write_all(&input.len().to_be_bytes()).await.unwrap();
    })
    .await;
    let relay = relay(Limits::default());
    assert!(relay.publish(vec![route(LEASE, 2000, guest)]).is_empty());
    let mut client = connect(2000).await;
    client.write_all(&vec![7; 300_000]).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = Vec::new();
    timeout(FAR, client.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer, 300_000_usize.to_be_bytes());
    until_connections(&relay, LEASE, 0).await;
}

#[tokio::test]
async fn a_route_that_is_taken_back_is_closed_and_its_connections_are_cut() {
    let guest = guest(echo).await;
    let relay = relay(Limits::default());
    let (gone, stays) = (route(LEASE, 2000, guest), route(OTHER, 2001, guest));
    assert!(relay.publish(vec![gone, stays]).is_empty());
    let (mut cut, mut kept) = (connect(2000).await, connect(2001).await);
    echoes(&mut cut).await;
    echoes(&mut kept).await;
    assert_eq!((relay.connections(LEASE), relay.connections(OTHER)), (1, 1));

    assert!(relay.publish(vec![stays]).is_empty());
    // At once: the very next call is refused.
    let refused = TcpStream::connect((here(), 2000)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(ends_with(&mut cut).await, Err(ErrorKind::ConnectionReset));
    echoes(&mut kept).await;
    assert_eq!(relay.connections(LEASE), 0);
}

#[tokio::test]
async fn a_port_goes_over_to_another_lease_in_one_step() {
    let (one, two) = (
        guest(echo).await,
        guest(|mut stream| async move {
            stream.read_exact(&mut [0; 1]).await.unwrap();
            stream.write_all(b"two").await.unwrap();
        })
        .await,
    );
    let relay = relay(Limits::default());
    assert!(relay.publish(vec![route(LEASE, 2000, one)]).is_empty());
    let mut old = connect(2000).await;
    echoes(&mut old).await;
    assert!(relay.publish(vec![route(OTHER, 2000, two)]).is_empty());
    let mut answer = Vec::new();
    let mut new = speak(2000).await;
    timeout(FAR, new.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer, b"two");
    assert_eq!(ends_with(&mut old).await, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn who_connects_to_a_reserved_port_waits_for_the_route() {
    let guest = guest(echo).await;
    let relay = relay(Limits::default());
    let reservation = relay.reserve(2000).await.unwrap();
    assert_eq!(
        relay.reserve(2000).await.unwrap_err().kind(),
        ErrorKind::AddrInUse
    );
    let mut early = connect(2000).await;
    assert!(relay.publish(vec![]).is_empty());
    assert!(
        relay
            .publish(vec![route(LEASE, reservation.port(), guest)])
            .is_empty()
    );
    drop(reservation);
    echoes(&mut early).await;
    echoes(&mut connect(2000).await).await;

    drop(relay.reserve(2001).await.unwrap());
    let refused = TcpStream::connect((here(), 2001)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_port_that_is_taken_is_reported_and_tried_again() {
    let guest = guest(echo).await;
    let squatter = TcpListener::bind((here(), 2000)).await.unwrap();
    let relay = relay(Limits::default());
    let (blocked, fine) = (route(LEASE, 2000, guest), route(OTHER, 2001, guest));
    let failed = relay.publish(vec![blocked, fine]);
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].route, blocked);
    assert_eq!(failed[0].error.kind(), ErrorKind::AddrInUse);
    echoes(&mut connect(2001).await).await;
    drop(squatter);
    assert!(relay.publish(vec![blocked, fine]).is_empty());
    echoes(&mut connect(2000).await).await;
}

#[tokio::test]
async fn a_change_touches_only_what_it_names() {
    let guest = guest(echo).await;
    let relay = relay(Limits {
        connections_per_lease: 2,
        ..Limits::default()
    });
    let [gone, stays, new] = [2000, 2001, 2002].map(|port| route(LEASE, port, guest));
    let other = route(OTHER, 2003, guest);
    assert!(relay.change(&[], [gone, stays, other]).is_empty());
    let mut streams = Vec::new();
    for port in [2000, 2001, 2003] {
        let mut stream = connect(port).await;
        echoes(&mut stream).await;
        streams.push(stream);
    }
    // One that is not there cannot be closed, and one that is open is not opened again.
    assert!(relay.change(&[gone, gone, new], [new, stays]).is_empty());
    assert_eq!(
        ends_with(&mut streams[0]).await,
        Err(ErrorKind::ConnectionReset)
    );
    echoes(&mut streams[1]).await;
    echoes(&mut streams[2]).await;
    // The lease's connections go on being counted together.
    echoes(&mut connect(2002).await).await;
    until_connections(&relay, LEASE, 1).await;
    assert!(relay.change(&[stays, new], []).is_empty());
    assert_eq!((relay.connections(LEASE), relay.connections(OTHER)), (0, 1));
    echoes(&mut streams[2]).await;
}

#[tokio::test]
async fn one_connection_too_many_is_reset_and_room_is_found_again() {
    let guest = guest(echo).await;
    let relay = relay(Limits {
        connections_per_lease: 2,
        ..Limits::default()
    });
    // The limit is the lease's, whatever the port.
    assert!(
        relay
            .publish(vec![
                route(LEASE, 2000, guest),
                route(LEASE, 2001, guest),
                route(OTHER, 2002, guest)
            ])
            .is_empty()
    );
    let (mut one, mut two) = (connect(2000).await, connect(2001).await);
    echoes(&mut one).await;
    echoes(&mut two).await;
    let mut three = connect(2000).await;
    says_it_back(&mut three).await.unwrap();
    let refused = says_it_back(&mut three).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionReset);
    echoes(&mut connect(2002).await).await;
    drop(one);
    until_connections(&relay, LEASE, 1).await;
    echoes(&mut connect(2000).await).await;
}

#[tokio::test]
async fn clients_that_say_nothing_take_no_place_and_the_oldest_makes_way() {
    let guest = guest(echo).await;
    let relay = relay(Limits {
        connections_per_lease: 1,
        handshakes_per_port: 2,
        silence: FAR * 9,
        ..Limits::default()
    });
    assert!(relay.publish(vec![route(LEASE, 2000, guest)]).is_empty());
    let mut oldest = connect(2000).await;
    let (mut second, _third) = (connect(2000).await, connect(2000).await);
    assert_eq!(
        ends_with(&mut oldest).await,
        Err(ErrorKind::ConnectionReset)
    );
    assert_eq!(relay.connections(LEASE), 0);
    // One that has spoken has left the hall: nobody has to make way any more.
    echoes(&mut second).await;
    let _fourth = connect(2000).await;
    echoes(&mut second).await;
    assert_eq!(relay.connections(LEASE), 1);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_reset_in_time() {
    let guest = guest(echo).await;
    let relay = relay(Limits {
        silence: Duration::from_millis(50),
        ..Limits::default()
    });
    assert!(relay.publish(vec![route(LEASE, 2000, guest)]).is_empty());
    let mut client = connect(2000).await;
    assert_eq!(
        ends_with(&mut client).await,
        Err(ErrorKind::ConnectionReset)
    );
}

#[tokio::test]
async fn a_guest_that_does_not_take_the_connection_resets_the_client() {
    let nobody = SocketAddrV4::new(here(), 9);
    let relay = relay(Limits::default());
    assert!(relay.publish(vec![route(LEASE, 2000, nobody)]).is_empty());
    assert_eq!(
        ends_with(&mut speak(2000).await).await,
        Err(ErrorKind::ConnectionReset)
    );
    until_connections(&relay, LEASE, 0).await;
}

/// A guest whose network is dead; counts who wants to go there.
#[derive(Default)]
struct Silence(Arc<AtomicUsize>);

#[async_trait]
impl Dial for Silence {
    async fn dial(&self, _: SocketAddrV4) -> std::io::Result<TcpStream> {
        self.0.fetch_add(1, Ordering::Relaxed);
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_guest_that_does_not_answer_resets_the_client_in_time() {
    let limits = Limits {
        dial_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let relay = Relay::new(Arc::new(Silence::default()), here(), limits);
    let nobody = SocketAddrV4::new(here(), 9);
    assert!(relay.publish(vec![route(LEASE, 2000, nobody)]).is_empty());
    assert_eq!(
        ends_with(&mut speak(2000).await).await,
        Err(ErrorKind::ConnectionReset)
    );
}

#[tokio::test]
async fn a_client_that_is_still_waiting_for_its_guest_is_cut_too() {
    let limits = Limits {
        dial_timeout: FAR * 10,
        ..Limits::default()
    };
    let dialed = Arc::<AtomicUsize>::default();
    let relay = Relay::new(Arc::new(Silence(Arc::clone(&dialed))), here(), limits);
    assert!(
        relay
            .publish(vec![route(LEASE, 2000, SocketAddrV4::new(here(), 9))])
            .is_empty()
    );
    let mut client = speak(2000).await;
    until("the guest is dialed", || {
        dialed.load(Ordering::Relaxed) == 1
    })
    .await;
    assert!(relay.publish(vec![]).is_empty());
    assert_eq!(
        ends_with(&mut client).await,
        Err(ErrorKind::ConnectionReset)
    );
}

#[tokio::test]
async fn a_break_on_one_side_is_a_break_on_the_other() {
    let breaks = guest(|mut stream| async move {
        stream.read_exact(&mut [0; 1]).await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let relay = relay(Limits::default());
    assert!(relay.publish(vec![route(LEASE, 2000, breaks)]).is_empty());
    let mut client = connect(2000).await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(
        ends_with(&mut client).await,
        Err(ErrorKind::ConnectionReset)
    );
}

#[tokio::test]
async fn a_guest_that_reads_nothing_holds_nobody_else_up() {
    let deaf = guest(|stream| async move {
        tokio::time::sleep(FAR).await;
        drop(stream);
    })
    .await;
    let fine = guest(echo).await;
    let relay = relay(Limits::default());
    assert!(
        relay
            .publish(vec![route(LEASE, 2000, deaf), route(OTHER, 2001, fine)])
            .is_empty()
    );
    let mut stuck = connect(2000).await;
    // Until every buffer on the way is full.
    let chunk = vec![0; 1 << 20];
    while timeout(Duration::from_millis(300), stuck.write_all(&chunk))
        .await
        .is_ok()
    {}
    echoes(&mut connect(2001).await).await;
    assert!(relay.publish(vec![route(OTHER, 2001, fine)]).is_empty());
    until_connections(&relay, LEASE, 0).await;
}

#[tokio::test]
async fn running_out_of_file_descriptors_delays_connections_and_loses_none() {
    let guest = guest(echo).await;
    let relay = relay(Limits::default());
    assert!(relay.publish(vec![route(LEASE, 2000, guest)]).is_empty());
    let waiting = TcpSocket::new_v4().unwrap();

    // Every test is a process of its own under nextest, so this limit is this test's alone.
    let limit = libc::rlimit {
        rlim_cur: waiting.as_raw_fd() as u64 + 20,
        rlim_max: 4096,
    };
    // SAFETY: it reads one `rlimit`, which lives until the call returns.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    let mut client = waiting.connect((here(), 2000).into()).await.unwrap();
    client.write_all(b"ping").await.unwrap();
    let early = timeout(Duration::from_millis(250), client.read(&mut [0; 4])).await;
    assert!(early.is_err(), "there was a descriptor left: {early:?}");
    drop(hoard);
    let mut answer = [0; 4];
    timeout(FAR, client.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    echoes(&mut client).await;
}
