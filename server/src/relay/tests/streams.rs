//! Streams of many bytes, which go by way of a pipe.

use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv, send};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::{FAR, LEASE, connect, echo, guest, here, relay, route, speak, until};
use crate::relay::Limits;
use crate::relay::carry::{BUFFER_BYTES, Told, carry};
use crate::relay::pipes::{Filling, Pipes};

const PORT: u16 = 2000;

/// Far more than all buffers on the way hold.
const BYTES: usize = 24 * 1024 * 1024;

/// No two pieces of it are alike.
fn stream() -> Vec<u8> {
    let mut state = 1u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..BYTES).map(|_| byte()).collect()
}

#[tokio::test]
async fn many_bytes_arrive_as_they_were_sent_in_both_directions() {
    let relay = relay(Limits::default());
    let guest = guest(echo).await;
    assert!(relay.publish([route(LEASE, PORT, guest)]).is_empty());
    let sent = stream();
    let (mut from, mut to) = connect(PORT).await.into_split();
    let reads = tokio::spawn(async move {
        let mut read = Vec::with_capacity(BYTES);
        from.read_to_end(&mut read).await.unwrap();
        read
    });
    // In pieces of every length, with a word between now and then.
    for (index, piece) in sent.chunks(300_007).enumerate() {
        to.write_all(piece).await.unwrap();
        if index % 16 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    to.shutdown().await.unwrap();
    let read = timeout(FAR, reads).await.unwrap().unwrap();
    assert!(read == sent, "{} bytes of {BYTES}", read.len());
}

/// Nothing is cut because it took too long.
fn patient() -> Limits {
    Limits {
        handshake: FAR * 9,
        ..Limits::default()
    }
}

/// Connects, and goes on once after the guest's first answer, as whoever talks does.
async fn talk(port: u16) -> TcpStream {
    let mut client = speak(port).await;
    client.read_exact(&mut [0]).await.unwrap();
    client.write_all(b"x").await.unwrap();
    client
}

/// The guest's side of it.
async fn answer(stream: &mut TcpStream) {
    stream.read_exact(&mut [0]).await.unwrap();
    stream.write_all(b"y").await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_breaks_is_never_taken_for_a_whole_one() {
    let relay = relay(patient());
    let guest = guest(|mut stream| async move {
        answer(&mut stream).await;
        stream.write_all(&vec![7; BYTES]).await.unwrap();
        // As a machine does that is destroyed.
        stream.set_zero_linger().unwrap();
    })
    .await;
    assert!(relay.publish([route(LEASE, PORT, guest)]).is_empty());
    let mut client = talk(PORT).await;
    let mut read = Vec::new();
    let ended = timeout(FAR, client.read_to_end(&mut read)).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_client_that_stops_reading_stops_the_guest() {
    static SENT: AtomicUsize = AtomicUsize::new(0);
    let relay = relay(patient());
    let guest = guest(|mut stream| async move {
        answer(&mut stream).await;
        for piece in vec![7; BYTES].chunks(64 * 1024) {
            stream.write_all(piece).await.unwrap();
            SENT.fetch_add(piece.len(), Ordering::Relaxed);
        }
        stream.shutdown().await.unwrap();
    })
    .await;
    assert!(relay.publish([route(LEASE, PORT, guest)]).is_empty());
    let mut client = talk(PORT).await;
    // Until all buffers on the way are full and nothing moves any more.
    let mut before = usize::MAX;
    let rests = async {
        loop {
            let sent = SENT.load(Ordering::Relaxed);
            if sent > 0 && sent == before {
                return sent;
            }
            before = sent;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let sent = timeout(FAR, rests).await.unwrap();
    assert!(sent < BYTES, "all of it was taken off the guest's hands");
    let mut read = Vec::new();
    let read_all = timeout(FAR, client.read_to_end(&mut read)).await;
    assert_eq!(read_all.unwrap().unwrap(), BYTES);
}

#[tokio::test]
async fn a_whole_answer_arrives_though_the_guest_has_gone_in_a_hurry() {
    const ANSWER: usize = 96 * 1024;
    let relay = relay(patient());
    let guest = guest(|mut stream| async move {
        let _ = stream.read(&mut [0]).await;
        stream.write_all(&[7; ANSWER]).await.unwrap();
        stream.shutdown().await.unwrap();
        // Time to be taken for ended; then it is reset, whose peer has not said all yet.
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    assert!(relay.publish([route(LEASE, PORT, guest)]).is_empty());
    // Of which most waits in the relay's own socket for a client that takes little at a time.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect((here(), PORT).into()).await.unwrap();
    client.write_all(b"x").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.shutdown().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut read = Vec::new();
    let read_all = timeout(FAR, client.read_to_end(&mut read)).await;
    assert_eq!(read_all.unwrap().unwrap(), ANSWER);
}

#[tokio::test]
async fn urgent_data_neither_stops_a_stream_nor_ends_it() {
    let relay = relay(patient());
    let guest = guest(echo).await;
    assert!(relay.publish([route(LEASE, PORT, guest)]).is_empty());
    let client = talk(PORT).await;
    let (mut from, mut to) = client.into_split();
    let many = vec![7; 1024 * 1024];
    let reads = tokio::spawn(async move {
        let mut read = Vec::new();
        from.read_to_end(&mut read).await.unwrap();
        read.len()
    });
    to.write_all(&many).await.unwrap();
    let socket = to.as_ref().as_raw_fd();
    to.writable().await.unwrap();
    assert_eq!(send(socket, b"!", MsgFlags::MSG_OOB).unwrap(), 1);
    to.write_all(&many).await.unwrap();
    to.shutdown().await.unwrap();
    let read = timeout(FAR, reads).await.unwrap().unwrap();
    // What `talk` said last, and everything but the urgent byte, which is not part of the stream.
    assert_eq!(read, 1 + 2 * many.len());
}

/// More than a buffer holds, and what a socket takes that was told to.
const QUEUED: usize = 160 * 1024;

/// A connection whose peer has sent so much that waits to be read.
async fn queued() -> (TcpStream, TcpStream) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(208 * 1024).unwrap();
    socket.bind((here(), 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    let (from, _) = listener.accept().await.unwrap();
    let sent = timeout(FAR, client.write_all(&[7; QUEUED])).await;
    sent.unwrap().unwrap();
    let look = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    until("all has come", || {
        recv(from.as_raw_fd(), &mut vec![0; QUEUED], look) == Ok(QUEUED)
    })
    .await;
    (client, from)
}

#[tokio::test]
async fn what_has_come_goes_into_a_pipe_in_one_call() {
    let (_client, from) = queued().await;
    let pipe = Pipes::default().take().unwrap();
    let Filling::Some(filled) = pipe.fill(&from) else {
        panic!("nothing went into the pipe");
    };
    // How much a pipe holds depends on what the system allows; more than a buffer it must be.
    assert!(filled.count() > BUFFER_BYTES, "{}", filled.count());
}

#[tokio::test]
async fn a_stream_that_rests_has_no_pipe_and_the_next_one_gets_it() {
    let pipes = Arc::new(Pipes::default());
    for _ in 0..2 {
        let (mut client, from) = queued().await;
        let listener = TcpListener::bind((here(), 0)).await.unwrap();
        let to = TcpStream::connect(listener.local_addr().unwrap());
        let to = to.await.unwrap();
        let (mut guest, _) = listener.accept().await.unwrap();
        let carried = tokio::spawn({
            let pipes = Arc::clone(&pipes);
            async move {
                let told = Told {
                    came: || (),
                    went: || (),
                    may_pipe: || true,
                };
                carry(&from, &to, told, &pipes).await
            }
        });
        let mut all = vec![0; QUEUED];
        let read = timeout(FAR, guest.read_exact(&mut all)).await;
        read.unwrap().unwrap();
        until("the one pipe is back", || pipes.spares() == 1).await;
        // It rests, and has not ended.
        client.write_all(b"more").await.unwrap();
        client.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let read = timeout(FAR, guest.read_to_end(&mut rest)).await;
        assert_eq!(read.unwrap().unwrap(), 4);
        timeout(FAR, carried).await.unwrap().unwrap().unwrap();
        // Nothing moves any more, and the second one made none of its own.
        assert_eq!(pipes.spares(), 1);
    }
}
