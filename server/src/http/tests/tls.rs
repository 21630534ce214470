//! TLS on the API's port: who comes in with it, and what becomes of those who come without.

use std::net::SocketAddr;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::places::Limits;
use super::serve::{Door, serve_within};
use super::*;
use crate::pki::SanName;
use crate::tls::{CA_FILE, Origin, Tls};

const PROBE: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

struct Served {
    fixture: Fixture,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Served {
    async fn new() -> Self {
        let all = 64;
        Self::within(Limits { all, per_peer: all }).await
    }

    async fn within(limits: Limits) -> Self {
        let fixture = Fixture::new().await;
        let origin = Origin::Own {
            folder: fixture.folder.path().to_owned(),
            names: vec![SanName::from_host("build.example")],
        };
        // Clients of this test look at the real clock.
        let now = crate::clock::SystemClock.now();
        let tls = Tls::open(origin, now).unwrap();
        let door = Door::tls(
            fixture.router.clone(),
            tls.config(),
            tls_only(fixture.api.clone()),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = fixture.api.stopping.clone();
        let task = tokio::spawn(serve_within(limits, listener, door, stop, FAR));
        Self {
            fixture,
            address,
            task,
        }
    }

    fn ca(&self) -> Vec<u8> {
        std::fs::read(self.fixture.folder.path().join(CA_FILE)).unwrap()
    }

    async fn connect(
        &self,
        ca: &[u8],
        name: &'static str,
        versions: &[&'static SupportedProtocolVersion],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(ca).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from(name).unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }

    /// A client that trusts the authority.
    async fn client(&self) -> TlsStream<TcpStream> {
        let ca = self.ca();
        let connected = self.connect(&ca, "build.example", &[&version::TLS13]).await;
        connected.unwrap()
    }

    async fn raw(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// Everything until the other side closes.
async fn all_of(mut stream: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(FAR, stream.read_to_end(&mut bytes)).await;
    // It may be reset after what it said.
    let _ = read.expect("the server kept the line");
    bytes
}

#[tokio::test]
async fn who_trusts_the_authority_comes_in_with_either_version() {
    let served = Served::new().await;
    for versions in [&[&version::TLS13], &[&version::TLS12]] {
        let connected = served
            .connect(&served.ca(), "build.example", versions)
            .await;
        let mut stream = connected.unwrap();
        stream.write_all(PROBE).await.unwrap();
        let answer = String::from_utf8(all_of(stream).await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
}

#[tokio::test]
async fn who_trusts_another_authority_or_means_another_server_does_not() {
    let served = Served::new().await;
    let (other, _) = crate::pki::ApiCa::generate(crate::clock::SystemClock.now()).unwrap();
    let tls13 = &[&version::TLS13];
    for (ca, name) in [
        (other.cert_pem().as_bytes().to_vec(), "build.example"),
        (served.ca(), "other.example"),
    ] {
        let error = served.connect(&ca, name, tls13).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
    }
}

/// A ClientHello as old clients send it, up to this version, without any extension.
fn old_hello(version: [u8; 2]) -> Vec<u8> {
    // ECDHE-ECDSA with AES-128-GCM (1.2) and with AES-128-CBC-SHA (1.0 and 1.1).
    let suites = [0xc0, 0x2b, 0xc0, 0x09];
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, suites.len() as u8]);
    body.extend(suites);
    body.extend([1, 0]);
    // Groups: P-256; signatures: ECDSA with SHA-256.
    let extensions = [
        0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 3,
    ];
    body.extend([0, extensions.len() as u8]);
    body.extend(extensions);
    let mut handshake = vec![1, 0, 0, body.len() as u8];
    handshake.extend(body);
    let mut record = vec![22, 3, 1, 0, handshake.len() as u8];
    record.extend(handshake);
    record
}

#[tokio::test]
async fn versions_before_1_2_are_refused() {
    let served = Served::new().await;
    for (version, is_taken) in [([3, 3], true), ([3, 2], false), ([3, 1], false)] {
        let mut stream = served.raw().await;
        stream.write_all(&old_hello(version)).await.unwrap();
        let mut begin = [0; 7];
        stream.read_exact(&mut begin).await.unwrap();
        if is_taken {
            // A handshake record that begins with a ServerHello: so the ones below are well-formed, too.
            assert_eq!((begin[0], begin[5]), (22, 2), "{begin:?}");
        } else {
            // A fatal alert: protocol_version.
            assert_eq!((begin[0], &begin[5..]), (21, &[2, 70][..]), "{begin:?}");
        }
    }
}

#[tokio::test]
async fn plain_http_is_told_to_speak_tls_and_hung_up_on() {
    let served = Served::new().await;
    let mut stream = served.raw().await;
    let request =
        format!("GET /v1/leases HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = String::from_utf8(all_of(stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("\"code\":\"tls_required\""), "{answer}");
    assert!(
        answer.to_lowercase().contains("connection: close"),
        "{answer}"
    );
}

// The clock is stopped, so that ten seconds are over as soon as nothing else moves.
#[tokio::test(flavor = "current_thread")]
async fn a_connection_that_dawdles_over_its_handshake_is_cut() {
    let served = Served::new().await;
    let hello = old_hello([3, 3]);
    let mut silent = served.raw().await;
    let mut halting = served.raw().await;
    halting.write_all(&hello[..9]).await.unwrap();
    let mut begun = served.raw().await;
    begun.write_all(&hello).await.unwrap();
    begun.read_u8().await.unwrap();
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    for stream in [&mut silent, &mut halting, &mut begun] {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(FAR * 100, stream.read_to_end(&mut rest));
        let _ = read.await.expect("the server kept the line");
    }
    assert!(before.elapsed() < FAR / 2, "{:?}", before.elapsed());
}

#[tokio::test]
async fn handshakes_that_are_not_finished_make_way() {
    let limits = Limits {
        all: 9,
        per_peer: 3,
    };
    let served = Served::within(limits).await;
    let mut halting = Vec::new();
    for _ in 0..20 {
        let mut stream = served.raw().await;
        stream.write_all(&old_hello([3, 3])[..9]).await.unwrap();
        halting.push(stream);
    }
    let mut stream = served.client().await;
    stream.write_all(PROBE).await.unwrap();
    let answer = String::from_utf8(all_of(stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert_eq!(all_of(halting.remove(0)).await, b"");
}

#[tokio::test]
async fn a_handshake_that_is_not_finished_does_not_hold_up_a_stop() {
    let served = Served::new().await;
    let mut halting = served.raw().await;
    halting.write_all(&old_hello([3, 3])[..9]).await.unwrap();
    served.fixture.api.stopping.cancel();
    let ended = tokio::time::timeout(FAR / 6, served.task).await;
    ended.expect("serve went on").unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_lease_up_with_tls_as_well() {
    let served = Served::new().await;
    let mut stream = served.client().await;
    let body = order(json!({ "wait_s": 600 }));
    let request = format!(
        "POST /v1/leases HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    served.fixture.lease_once(|_| true).await;
    // As the CLI does it: its sending side alone, and without a word of TLS.
    let (mut tcp, _session) = stream.into_inner();
    tcp.shutdown().await.unwrap();
    let row = served
        .fixture
        .lease_once(|row| row.end_wish.is_some())
        .await;
    assert_eq!(row.end_wish, Some(remote_docker_api::EndReason::ClientGone));
}
