//! What only shows on a real connection: hanging up, dawdling, stopping.

use std::net::SocketAddr;

use remote_docker_api::EndReason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;

impl Fixture {
    /// Serves on a port of its own until `stopping` is cancelled.
    async fn served(&self, grace: Duration) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = self.api.stopping.clone();
        let task = tokio::spawn(serve(listener, self.router.clone(), stop, grace));
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
