//! Clients that begin to talk and do not go on, and floods of them.

use std::time::Instant;

use super::*;

/// Reads all and says nothing, ever.
async fn mute(mut stream: TcpStream) {
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

fn opened(relay: &Relay, routes: &[Route]) {
    assert!(relay.publish(routes.to_vec()).is_empty());
}

#[tokio::test]
async fn a_handshake_that_stalls_is_reset_in_time_wherever_it_stalls() {
    let (mute, echo) = (guest(mute).await, guest(echo).await);
    let relay = relay(Limits {
        handshake: Duration::from_millis(300),
        ..Limits::default()
    });
    opened(
        &relay,
        &[route(LEASE, 2000, mute), route(OTHER, 2001, echo)],
    );
    // After the first byte.
    let mut first = speak(2000).await;
    // After the guest's answer.
    let mut second = connect(2001).await;
    says_it_back(&mut second).await.unwrap();
    // A byte now and then makes no handshake.
    let slow = tokio::spawn(async {
        let mut slow = connect(2000).await;
        while slow.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    for stream in [&mut first, &mut second] {
        assert_eq!(ends_with(stream).await, Err(ErrorKind::ConnectionReset));
    }
    timeout(FAR, slow).await.expect("it goes on").unwrap();
    // Who is through stays for as long as it likes.
    let mut third = connect(2001).await;
    echoes(&mut third).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    echoes(&mut third).await;
}

#[tokio::test]
async fn handshakes_take_no_place_of_the_lease_and_the_oldest_makes_way() {
    let guest = guest(echo).await;
    let relay = relay(Limits {
        connections_per_lease: 1,
        handshakes_per_port: 2,
        handshake: FAR * 9,
        silence: FAR * 9,
        ..Limits::default()
    });
    opened(&relay, &[route(LEASE, 2000, guest)]);
    let mut stalled = Vec::new();
    for _ in 0..6 {
        let mut one = connect(2000).await;
        says_it_back(&mut one).await.unwrap();
        stalled.push(one);
    }
    assert_eq!(relay.connections(LEASE), 0);
    for one in &mut stalled[..4] {
        assert_eq!(ends_with(one).await, Err(ErrorKind::ConnectionReset));
    }
    let mut holder = connect(2000).await;
    echoes(&mut holder).await;
    assert_eq!(relay.connections(LEASE), 1);
    // Who is through makes way for nobody.
    for _ in 0..6 {
        let mut one = connect(2000).await;
        says_it_back(&mut one).await.unwrap();
    }
    echoes(&mut holder).await;
}

/// How many connections the flood makes. With what the relay and the guest hold of each, they are more than
/// there are file descriptors, so that without limits there is nothing left for others.
const FLOOD: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_on_one_leases_port_leaves_the_others_answering() {
    let guest = guest(echo).await;
    let relay = relay(Limits {
        connections_per_lease: 8,
        handshakes_per_port: 8,
        handshake: FAR * 9,
        silence: FAR * 9,
        ..Limits::default()
    });
    opened(
        &relay,
        &[route(LEASE, 2000, guest), route(OTHER, 2001, guest)],
    );
    let mut standing = connect(2001).await;
    echoes(&mut standing).await;
    // Every test is a process of its own under nextest, so this limit is this test's alone.
    let most = u64::try_from(2 * FLOOD).unwrap();
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: it reads one `rlimit`, which lives until the call returns.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);

    // A third says nothing, a third begins a handshake, a third gets through; and all stay.
    let mut flood = Vec::new();
    for number in 0..FLOOD {
        let mut one = connect(2000).await;
        match number % 3 {
            0 => {}
            1 => one.write_all(b"x").await.unwrap(),
            _ => {
                // It may have been made to leave by now.
                if says_it_back(&mut one).await.is_ok() {
                    let _ = says_it_back(&mut one).await;
                }
            }
        }
        flood.push(one);
        if number % 10 == 0 {
            let begun = Instant::now();
            echoes(&mut standing).await;
            echoes(&mut connect(2001).await).await;
            until_connections(&relay, OTHER, 1).await;
            assert!(begun.elapsed() < FAR / 4, "{:?}", begun.elapsed());
        }
    }
    assert_eq!(relay.connections(LEASE), 8, "its own limit");
    echoes(&mut connect(2001).await).await;
}
