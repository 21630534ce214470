//! An issuer on the other side of a connection: its keys change, it goes away, it is asked too much of.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::super::cache::{Seen, Wish};
use super::*;
use crate::clock::SystemClock;
use crate::http::{Door, serve};
use crate::pki::SanName;
use crate::tls::{CA_FILE, Origin, Tls};

/// What it answers, and how often it was asked.
#[derive(Default)]
struct Says {
    jwks: Mutex<Vec<u8>>,
    status: Mutex<StatusCode>,
    /// What stands as its name in its description.
    name: Mutex<String>,
    jwks_uri: Mutex<String>,
    asked: AtomicUsize,
}

struct Remote {
    says: Arc<Says>,
    url: String,
    folder: TempDir,
    stop: CancellationToken,
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Remote {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let origin = Origin::Own {
            folder: folder.path().to_owned(),
            names: vec![SanName::from_host("127.0.0.1")],
        };
        let tls = Tls::open(origin, SystemClock.now()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let says = Arc::new(Says::default());
        *says.name.lock().unwrap() = url.clone();
        *says.jwks_uri.lock().unwrap() = format!("{url}/keys?v=1");
        let (keys, description) = (says.clone(), says.clone());
        let router = Router::new()
            .route(
                "/.well-known/openid-configuration",
                get(move || async move {
                    let (name, uri) = (&description.name, &description.jwks_uri);
                    let (name, uri) = (name.lock().unwrap(), uri.lock().unwrap());
                    json!({ "issuer": *name, "jwks_uri": *uri, "else": 1 }).to_string()
                }),
            )
            .route(
                "/keys",
                get(move || async move {
                    keys.asked.fetch_add(1, Ordering::SeqCst);
                    let status = *keys.status.lock().unwrap();
                    let to = [(header::LOCATION, "http://127.0.0.1:9/")];
                    (status, to, keys.jwks.lock().unwrap().clone()).into_response()
                }),
            );
        let stop = CancellationToken::new();
        let door = Door::tls(router, tls.config(), Router::new());
        tokio::spawn(serve(listener, door, stop.clone(), Duration::ZERO));
        Self {
            says,
            url,
            folder,
            stop,
        }
    }

    fn fetcher(&self) -> Fetcher {
        self.fetcher_at(Place::Discovered)
    }

    fn fetcher_at(&self, place: Place) -> Fetcher {
        self.fetcher_through(place, Proxies::default())
    }

    fn fetcher_through(&self, place: Place, proxies: Proxies) -> Fetcher {
        let ca_file = Some(self.folder.path().join(CA_FILE));
        Fetcher::new(self.url.clone(), Source { place, ca_file }, proxies).unwrap()
    }

    fn shows(&self, keys: &[Value]) {
        *self.says.jwks.lock().unwrap() = jwks(keys);
    }

    fn asked(&self) -> usize {
        self.says.asked.load(Ordering::SeqCst)
    }

    fn answers(&self, status: StatusCode) {
        *self.says.status.lock().unwrap() = status;
    }
}

/// Server time as the test sets it; wall time is [`NOW`].
struct Hands(Mutex<OffsetDateTime>);

impl Hands {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(OffsetDateTime::UNIX_EPOCH)))
    }

    fn pass(&self, seconds: i64) {
        *self.0.lock().unwrap() += time::Duration::seconds(seconds);
    }
}

impl Clock for Hands {
    fn now(&self) -> OffsetDateTime {
        *self.0.lock().unwrap()
    }

    fn wall(&self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(NOW).unwrap()
    }
}

fn issuers(remote: &Remote, clock: &Arc<Hands>) -> Issuers {
    let terms = Terms {
        issuer: remote.url.clone(),
        ..terms()
    };
    let source = Source {
        place: Place::Discovered,
        ca_file: Some(remote.folder.path().join(CA_FILE)),
    };
    let clock: Arc<dyn Clock> = clock.clone();
    Issuers::new([(terms, source)], &Proxies::default(), &clock).unwrap()
}

fn token_of(remote: &Remote, signer: &Signer, kid: &str) -> String {
    let header = json!({ "alg": "ES256", "kid": kid }).to_string();
    let claims = changed(&json!({ "iss": remote.url })).to_string();
    signer.token(&header, &claims)
}

#[tokio::test]
async fn keys_are_found_where_the_issuer_says() {
    let remote = Remote::new().await;
    let signer = Signer::p256();
    remote.shows(&[signer.jwk("a")]);
    let expected = Keys::from_jwks(&jwks(&[signer.jwk("a")])).unwrap();
    assert_eq!(remote.fetcher().fetch().await.unwrap(), expected);
    let direct = Place::Url(format!("{}/keys", remote.url));
    assert_eq!(remote.fetcher_at(direct).fetch().await.unwrap(), expected);
    let file = remote.folder.path().join("jwks.json");
    std::fs::write(&file, jwks(&[signer.jwk("a")])).unwrap();
    let file = remote.fetcher_at(Place::File(file)).fetch().await;
    assert_eq!(file.unwrap(), expected);
}

/// A proxy that answers this and then, if it is a good answer, carries bytes to `to`; what it was asked comes
/// out of the other end.
async fn proxy(answer: &'static str, to: String) -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (told, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            told.send(String::from_utf8(head).unwrap()).unwrap();
            client.write_all(answer.as_bytes()).await.unwrap();
            if answer.contains(" 200 ") {
                let mut issuer = TcpStream::connect(&to).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut issuer).await;
            }
        }
    });
    (port, asked)
}

#[tokio::test]
async fn the_sites_proxy_is_the_way_to_an_issuer() {
    let remote = Remote::new().await;
    let signer = Signer::p256();
    remote.shows(&[signer.jwk("a")]);
    let address = remote.url.strip_prefix("https://").unwrap().to_owned();
    let through = |port: u16, except: &str| {
        let named = format!("http://user:hunter2@127.0.0.1:{port}");
        let proxies = Proxies::new(Some(&named), Some(except)).unwrap();
        remote.fetcher_through(Place::Discovered, proxies)
    };
    let (port, mut asked) = proxy("HTTP/1.1 200 Go on\r\nX: y\r\n\r\n", address.clone()).await;
    let fetched = through(port, "").fetch().await.unwrap();
    assert_eq!(fetched.count(), 1);
    for _ in ["the description", "the keys"] {
        let head = asked.recv().await.unwrap();
        assert_eq!(
            head,
            format!(
                "CONNECT {address} HTTP/1.1\r\nHost: {address}\r\nProxy-Authorization: Basic \
                 dXNlcjpodW50ZXIy\r\n\r\n"
            )
        );
    }
    through(port, "127.0.0.1").fetch().await.unwrap();
    assert!(asked.try_recv().is_err(), "it was told to leave the proxy");

    // One that does not let us through is never gone around.
    let endless: &str = Box::leak("x".repeat(9000).into_boxed_str());
    for answer in [
        "HTTP/1.1 407 Who are you\r\n\r\n",
        "HTTP/1.1 302 Elsewhere\r\n\r\n",
        "rubbish\r\n\r\n",
        endless,
    ] {
        let (port, _asked) = proxy(answer, address.clone()).await;
        let error = through(port, "").fetch().await.unwrap_err();
        let FetchError::Connect(_, why) = &error else {
            panic!("{error:?}")
        };
        let why = why.to_string();
        assert!(
            why.contains(&format!("the proxy 127.0.0.1:{port}")),
            "{why}"
        );
        assert!(!why.contains("hunter2"), "{why}");
    }
}

#[tokio::test]
async fn an_issuer_that_is_not_the_one_is_not_believed() {
    let remote = Remote::new().await;
    remote.shows(&[Signer::p256().jwk("a")]);
    remote.fetcher().fetch().await.unwrap();
    // Another authority's certificate.
    let (other, _) = crate::pki::ApiCa::generate(SystemClock.now()).unwrap();
    let file = remote.folder.path().join("other.pem");
    std::fs::write(&file, other.cert_pem()).unwrap();
    let source = Source {
        place: Place::Discovered,
        ca_file: Some(file),
    };
    let fetcher = Fetcher::new(remote.url.clone(), source, Proxies::default()).unwrap();
    let error = fetcher.fetch().await.unwrap_err();
    assert!(matches!(error, FetchError::Connect(..)), "{error:?}");
    // Another issuer's description.
    *remote.says.name.lock().unwrap() = "https://other.example".to_owned();
    let error = remote.fetcher().fetch().await.unwrap_err();
    assert!(matches!(error, FetchError::Answer(..)), "{error:?}");
    *remote.says.name.lock().unwrap() = remote.url.clone();
    // Keys that would come over an open line.
    *remote.says.jwks_uri.lock().unwrap() = remote.url.replace("https", "http");
    let error = remote.fetcher().fetch().await.unwrap_err();
    assert!(matches!(error, FetchError::Address(_)), "{error:?}");
}

#[tokio::test]
async fn redirections_are_not_followed_and_answers_are_bounded() {
    let remote = Remote::new().await;
    remote.shows(&[Signer::p256().jwk("a")]);
    for status in [
        StatusCode::FOUND,
        StatusCode::NOT_FOUND,
        StatusCode::BAD_GATEWAY,
    ] {
        remote.answers(status);
        let error = remote.fetcher().fetch().await.unwrap_err();
        assert!(
            matches!(error, FetchError::Status(_, it) if it == status),
            "{error:?}"
        );
    }
    remote.answers(StatusCode::OK);
    *remote.says.jwks.lock().unwrap() = vec![b' '; 300 * 1024];
    let error = remote.fetcher().fetch().await.unwrap_err();
    assert!(matches!(error, FetchError::Http(..)), "{error:?}");
    *remote.says.jwks.lock().unwrap() = b"<html>".to_vec();
    let error = remote.fetcher().fetch().await.unwrap_err();
    assert!(matches!(error, FetchError::Answer(..)), "{error:?}");
}

#[tokio::test]
async fn a_new_key_is_taken_at_once_and_an_old_one_goes_with_the_next_look() {
    let remote = Remote::new().await;
    let clock = Hands::new();
    let issuers = issuers(&remote, &clock);
    let (old, new) = (Signer::p256(), Signer::p256());
    let check = async |signer: &Signer, kid: &str| {
        let token = token_of(&remote, signer, kid);
        let checked = issuers.check(token.as_bytes(), &*clock).await;
        checked.map(|(issuer, verified)| (issuer.to_owned(), verified.project))
    };
    remote.shows(&[old.jwk("old")]);
    assert_eq!(
        check(&old, "old").await.unwrap(),
        (remote.url.clone(), "web".to_owned())
    );
    check(&old, "old").await.unwrap();
    assert_eq!(remote.asked(), 1);

    remote.shows(&[new.jwk("new")]);
    // Too soon after the last question.
    assert_eq!(check(&new, "new").await, Err(Refusal::UnknownKey));
    clock.pass(31);
    check(&new, "new").await.unwrap();
    assert_eq!(remote.asked(), 2);
    assert_eq!(check(&old, "old").await, Err(Refusal::UnknownKey));
}

#[tokio::test]
async fn a_flood_of_unknown_keys_makes_one_question_in_half_a_minute() {
    let remote = Remote::new().await;
    let clock = Hands::new();
    let issuers = issuers(&remote, &clock);
    let signer = Signer::p256();
    remote.shows(&[signer.jwk("a")]);
    for round in 1..=3 {
        for number in 0..50 {
            let token = token_of(&remote, &signer, &format!("unknown-{number}"));
            let checked = issuers.check(token.as_bytes(), &*clock).await;
            assert_eq!(checked.unwrap_err(), Refusal::UnknownKey);
        }
        // And whoever has a known one waits for nobody.
        let token = token_of(&remote, &signer, "a");
        issuers.check(token.as_bytes(), &*clock).await.unwrap();
        assert_eq!(remote.asked(), round);
        clock.pass(30);
    }
}

#[tokio::test]
async fn an_issuer_that_is_away_keeps_nobody_out_for_a_day() {
    let remote = Remote::new().await;
    let clock = Hands::new();
    let issuers = issuers(&remote, &clock);
    let signer = Signer::p256();
    remote.answers(StatusCode::BAD_GATEWAY);
    remote.shows(&[signer.jwk("a")]);
    let token = token_of(&remote, &signer, "a");
    let check = async || issuers.check(token.as_bytes(), &*clock).await.map(|_| ());
    assert_eq!(check().await, Err(Refusal::Unavailable));
    assert_eq!(check().await, Err(Refusal::Unavailable));
    assert_eq!(remote.asked(), 1);
    remote.answers(StatusCode::OK);
    clock.pass(30);
    check().await.unwrap();

    remote.answers(StatusCode::BAD_GATEWAY);
    clock.pass(24 * 3600 - 1);
    issuers.0[0].cache.keep().await;
    check().await.unwrap();
    clock.pass(1);
    assert_eq!(check().await, Err(Refusal::Unavailable));
    remote.answers(StatusCode::OK);
    clock.pass(30);
    check().await.unwrap();
}

#[tokio::test]
async fn tokens_of_issuers_that_are_not_named_make_nobody_ask() {
    let remote = Remote::new().await;
    let clock = Hands::new();
    let issuers = issuers(&remote, &clock);
    let signer = Signer::p256();
    let token = signer.token(r#"{"alg":"ES256","kid":"a"}"#, &claims().to_string());
    let checked = issuers.check(token.as_bytes(), &*clock).await;
    assert_eq!(checked.unwrap_err(), Refusal::Issuer);
    assert_eq!(remote.asked(), 0);
}

#[test]
fn keys_are_looked_after_without_being_asked_for() {
    let at = |seconds| OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds);
    let keys = Keys::from_jwks(&jwks(&[Signer::p256().jwk("a")])).unwrap();
    let mut seen = Seen::default();
    assert!(seen.is_due(at(0), Wish::Upkeep));
    seen.asked_at = Some(at(0));
    assert!(!seen.is_due(at(29), Wish::Upkeep));
    assert!(seen.is_due(at(30), Wish::Upkeep));
    seen.keys = Some((Arc::new(keys), at(0)));
    assert!(!seen.is_due(at(899), Wish::Upkeep));
    assert!(seen.is_due(at(900), Wish::Upkeep));
    // Whoever comes with a known key is never the one who has to wait for that.
    assert!(!seen.is_due(at(900), Wish::Token(Some("a"))));
    assert!(seen.is_due(at(900), Wish::Token(Some("b"))));
}

#[test]
fn addresses_are_https_or_none() {
    for (url, expected) in [
        ("https://a.example", Some(("a.example", 443, "/"))),
        ("https://a:8443/b?c=d", Some(("a", 8443, "/b?c=d"))),
        ("https://[::1]:1/x", Some(("::1", 1, "/x"))),
        ("http://a", None),
        ("https://", None),
        ("https://user@a", None),
        ("ftp://a", None),
        ("/a", None),
        ("", None),
    ] {
        let read = https(url).ok();
        let read = read
            .as_ref()
            .map(|(host, port, path)| (host.as_str(), *port, path.as_str()));
        assert_eq!(read, expected, "{url}");
    }
}
