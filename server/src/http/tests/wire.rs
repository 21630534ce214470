//! What only shows on a real connection: hanging up, dawdling, stopping.

use std::net::SocketAddr;

use remote_docker_api::EndReason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::places::Limits;
use super::serve::{Door, serve_within};
use super::*;

impl Fixture {
    /// Serves on a port of its own until `stopping` is cancelled.
    async fn served(&self, grace: Duration) -> (SocketAddr, JoinHandle<()>) {
        let all = 64;
        let limits = Limits { all, per_peer: all };
        self.served_within(limits, grace).await
    }

    async fn served_within(&self, limits: Limits, grace: Duration) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = self.api.stopping.clone();
        let task = tokio::spawn(serve_within(
            limits,
            listener,
            Door::plain(self.router.clone()),
            stop,
            grace,
        ));
        (address, task)
    }
}

fn raw_post(body: &str, length: usize) -> String {
    format!(
        "POST /v1/leases HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
         Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

async fn all_of(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = stream.read_to_end(&mut text);
    tokio::time::timeout(FAR, read)
        .await
        .expect("the server kept the line")
        .unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_connection_that_breaks_gives_the_lease_up() {
    let fixture = Fixture::new().await;
    let (address, _task) = fixture.served(FAR).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = order(json!({ "wait_s": 600 }));
    stream
        .write_all(raw_post(&body, body.len()).as_bytes())
        .await
        .unwrap();
    fixture.lease_once(|_| true).await;
    drop(stream);
    let row = fixture.lease_once(|row| row.end_wish.is_some()).await;
    assert_eq!(row.end_wish, Some(EndReason::ClientGone));
}

#[tokio::test]
async fn a_body_over_the_limit_gets_its_answer_before_the_line_is_cut() {
    let fixture = Fixture::new().await;
    let (address, _task) = fixture.served(FAR).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = "x".repeat(512 * 1024);
    stream
        .write_all(raw_post(&body, body.len()).as_bytes())
        .await
        .unwrap();
    let answer = all_of(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("\"code\":\"body_too_large\""), "{answer}");
}

// The clock is stopped, so that half a minute is over as soon as nothing else moves.
#[tokio::test(flavor = "current_thread")]
async fn a_connection_that_dawdles_over_its_head_is_cut() {
    let fixture = Fixture::new().await;
    let (address, _task) = fixture.served(FAR).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHos")
        .await
        .unwrap();
    tokio::time::pause();
    let mut text = Vec::new();
    let read = tokio::time::timeout(FAR * 100, stream.read_to_end(&mut text));
    read.await.expect("the server kept the line").unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(!text.contains(" 200 "), "{text}");
}

#[tokio::test]
async fn stopping_answers_who_waits_and_refuses_who_comes() {
    let fixture = Fixture::new().await;
    let (address, task) = fixture.served(FAR).await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 15];
    idle.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = order(json!({ "wait_s": 600 }));
    stream
        .write_all(raw_post(&body, body.len()).as_bytes())
        .await
        .unwrap();
    fixture.lease_once(|_| true).await;

    fixture.api.stopping.cancel();
    let answer = all_of(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    tokio::time::timeout(FAR, task)
        .await
        .expect("serve went on")
        .unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_client_that_takes_no_answer_cannot_hold_up_a_stop() {
    let fixture = Fixture::new().await;
    let (address, task) = fixture.served(Duration::from_millis(1)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The head of a request whose body never comes.
    stream
        .write_all(raw_post("{", 100).as_bytes())
        .await
        .unwrap();
    fixture.api.stopping.cancel();
    tokio::time::timeout(FAR, task)
        .await
        .expect("serve went on")
        .unwrap();
}

const PROBE: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

/// Reads the answer to one [`PROBE`]; tells whether there was one.
async fn is_answered(stream: &mut TcpStream) -> bool {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let read = tokio::time::timeout(FAR * 100, stream.read_u8()).await;
        match read.expect("the server said nothing") {
            Ok(byte) => text.push(byte),
            Err(_) => return false,
        }
    }
    let head = String::from_utf8(text).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap();
    let length = length.lines().next().unwrap().parse().unwrap();
    stream.read_exact(&mut vec![0; length]).await.unwrap();
    true
}

#[tokio::test(flavor = "current_thread")]
async fn a_client_that_asks_and_never_reads_is_cut() {
    let fixture = Fixture::new().await;
    let (address, _task) = fixture.served(FAR).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let requests = PROBE.repeat(1000);
    // Until every buffer on the way is full.
    let short = Duration::from_millis(500);
    while let Ok(written) = tokio::time::timeout(short, stream.write_all(&requests)).await {
        written.unwrap();
    }
    tokio::time::pause();
    let cut = async { while stream.write_all(&requests).await.is_ok() {} };
    let cut = tokio::time::timeout(FAR * 100, cut).await;
    cut.expect("the server kept the line");
}

#[tokio::test(flavor = "current_thread")]
async fn a_connection_does_not_live_for_ever_however_often_it_is_used() {
    let fixture = Fixture::new().await;
    let (address, _task) = fixture.served(FAR).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    tokio::time::pause();
    let mut answers = 0;
    while stream.write_all(PROBE).await.is_ok() && is_answered(&mut stream).await {
        answers += 1;
        assert!(answers < 100, "the server kept the line");
        tokio::time::sleep(FAR / 2).await;
    }
    assert!(answers > 10, "{answers}");
}

#[tokio::test]
async fn idle_connections_make_way_and_those_with_the_token_stay() {
    let fixture = Fixture::new().await;
    let limits = Limits {
        all: 9,
        per_peer: 3,
    };
    let (address, _task) = fixture.served_within(limits, FAR).await;
    let mut waiting = TcpStream::connect(address).await.unwrap();
    let body = order(json!({ "wait_s": 600 }));
    let request = raw_post(&body, body.len());
    waiting.write_all(request.as_bytes()).await.unwrap();
    fixture.lease_once(|_| true).await;

    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let mut probe = TcpStream::connect(address).await.unwrap();
    probe.write_all(PROBE).await.unwrap();
    assert!(is_answered(&mut probe).await);
    assert_eq!(all_of(&mut idle[0]).await, "");
    fixture.api.stopping.cancel();
    let answer = all_of(&mut waiting).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn who_has_no_token_is_told_so_and_hung_up_on() {
    let fixture = Fixture::new().await;
    let (address, _task) = fixture.served(FAR).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /v1/leases HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let answer = tokio::time::timeout(FAR / 3, all_of(&mut stream)).await;
    let answer = answer.expect("the server kept the line");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(
        answer.to_lowercase().contains("connection: close"),
        "{answer}"
    );
}
