//! Streams of many bytes, which go by way of a pipe.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{FAR, LEASE, connect, echo, guest, relay, route, speak};
use crate::relay::Limits;

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

#[tokio::test]
async fn a_stream_that_breaks_is_never_taken_for_a_whole_one() {
    let relay = relay(Limits::default());
    let guest = guest(|mut stream| async move {
        let _ = stream.read(&mut [0]).await;
        stream.write_all(&vec![7; BYTES]).await.unwrap();
        // As a machine does that is destroyed.
        stream.set_zero_linger().unwrap();
    })
    .await;
    assert!(relay.publish([route(LEASE, PORT, guest)]).is_empty());
    let mut client = speak(PORT).await;
    let mut read = Vec::new();
    let ended = timeout(FAR, client.read_to_end(&mut read)).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_client_that_stops_reading_stops_the_guest() {
    let relay = relay(Limits::default());
    let guest = guest(|mut stream| async move {
        let _ = stream.read(&mut [0]).await;
        stream.write_all(&stream_of_guest()).await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await;
    assert!(relay.publish([route(LEASE, PORT, guest)]).is_empty());
    let mut client = speak(PORT).await;
    // By then all buffers are full, whatever they hold.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut read = Vec::new();
    timeout(FAR, client.read_to_end(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert!(read == stream_of_guest(), "{} bytes of {BYTES}", read.len());
}

fn stream_of_guest() -> Vec<u8> {
    let mut bytes = stream();
    bytes.reverse();
    bytes
}
