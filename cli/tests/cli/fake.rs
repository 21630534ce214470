//! A server that records what it is asked and answers what the test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::sandbox::Sandbox;

pub(crate) const TOKEN: &str = "sesame";
pub(crate) const LEASE: &str = "l-0000000000001";

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: String,
    pub(crate) idempotency_key: String,
    pub(crate) if_none_match: String,
    pub(crate) body: Value,
}

/// What to answer.
pub(crate) enum Reply {
    Json(u16, Value),
    Problem(Value),
    Html(u16),
    /// These bytes, and then the connection is closed.
    Raw(Vec<u8>),
    /// The first bytes, and then the others again and again with this pause, until the client goes away.
    Endless(&'static str, &'static str, Duration),
    /// Nothing until the client goes away.
    Hang,
    /// Nothing until the client has closed its sending side, and then this all the same.
    JsonAfterGoodbye(u16, Value),
}

type Handler = Box<dyn Fn(&Request) -> Reply + Send + Sync>;

#[derive(Default)]
struct Seen {
    requests: Vec<Request>,
    /// Methods of the requests whose client went away while they waited.
    abandoned: Vec<String>,
}

struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
    handlers: Vec<(&'static str, Handler)>,
}

/// The server; it listens as long as the test's process lives.
pub(crate) struct Fake {
    pub(crate) url: String,
    shared: Arc<Shared>,
}

impl Fake {
    /// A server that gives leases, holds long polls and takes leases back.
    pub(crate) fn start() -> Self {
        Self::with(Vec::new())
    }

    /// The same, but for this answer to each request of `method`.
    pub(crate) fn on(
        method: &'static str,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::with(vec![(method, Box::new(handler))])
    }

    pub(crate) fn with(handlers: Vec<(&'static str, Handler)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            changed: Condvar::new(),
            handlers,
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&serving);
                thread::spawn(move || shared.serve(&stream.unwrap()));
            }
        });
        Self { url, shared }
    }

    /// All requests so far, as `METHOD path`.
    pub(crate) fn calls(&self) -> Vec<String> {
        let seen = self.shared.seen.lock().unwrap();
        seen.requests
            .iter()
            .map(|request| format!("{} {}", request.method, request.path))
            .collect()
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.seen.lock().unwrap().requests.clone()
    }

    /// The lease was given back once, and no key is left.
    pub(crate) fn assert_given_back(&self, sandbox: &Sandbox) {
        let calls = self.calls();
        let released = format!("DELETE /v1/leases/{LEASE}");
        let times = calls.iter().filter(|call| **call == released).count();
        assert_eq!(times, 1, "{calls:?}");
        assert!(sandbox.is_clean());
    }

    /// Waits until there were so many heartbeats.
    pub(crate) fn wait_for_heartbeats(&self, count: usize) {
        self.wait(&format!("{count} heartbeats"), |seen| {
            let beats = |request: &&Request| request.path.ends_with("/heartbeat");
            seen.requests.iter().filter(beats).count() >= count
        });
    }

    /// Waits until there was a request with this method.
    pub(crate) fn wait_for_call(&self, method: &str) {
        self.wait(&format!("a {method}"), |seen| {
            seen.requests.iter().any(|request| request.method == method)
        });
    }

    /// Waits until the client of a request with this method went away while it waited.
    pub(crate) fn wait_for_abandoned(&self, method: &str) {
        self.wait(&format!("an abandoned {method}"), |seen| {
            seen.abandoned.iter().any(|abandoned| abandoned == method)
        });
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Seen) -> bool) {
        let seen = self.shared.seen.lock().unwrap();
        let limit = Duration::from_secs(30);
        let (seen, timeout) = self
            .shared
            .changed
            .wait_timeout_while(seen, limit, |seen| !is_so(seen))
            .unwrap();
        assert!(!timeout.timed_out(), "no {what} in {:?}", seen.requests);
    }
}

impl Shared {
    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        let Some(request) = read_request(&mut reader) else {
            return;
        };
        self.seen.lock().unwrap().requests.push(request.clone());
        self.changed.notify_all();
        let handler = self
            .handlers
            .iter()
            .find(|(method, _)| *method == request.method);
        let reply = handler.map_or_else(|| usual(&request), |(_, handler)| handler(&request));
        let mut writer = stream;
        // The client may have gone away, which is its right.
        let _ = match reply {
            Reply::Json(status, body) => writer.write_all(&response(status, "json", &body)),
            Reply::Problem(body) => {
                let status = body["status"].as_u64().unwrap() as u16;
                writer.write_all(&response(status, "problem+json", &body))
            }
            Reply::Html(status) => writer.write_all(
                format!(
                    "HTTP/1.1 {status} Whatever\r\ncontent-type: text/html\r\n\
                     content-length: 6\r\nconnection: close\r\n\r\n<html>"
                )
                .as_bytes(),
            ),
            Reply::Raw(bytes) => writer.write_all(&bytes),
            Reply::Endless(first, again, pause) => {
                let mut written = writer.write_all(first.as_bytes());
                while written.is_ok() {
                    thread::sleep(pause);
                    written = writer.write_all(again.as_bytes());
                }
                self.seen.lock().unwrap().abandoned.push(request.method);
                self.changed.notify_all();
                Ok(())
            }
            Reply::Hang => {
                let _ = reader.read_to_end(&mut Vec::new());
                self.seen.lock().unwrap().abandoned.push(request.method);
                self.changed.notify_all();
                Ok(())
            }
            Reply::JsonAfterGoodbye(status, body) => {
                let _ = reader.read_to_end(&mut Vec::new());
                writer.write_all(&response(status, "json", &body))
            }
        };
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut authorization) = (0, String::new());
    let (mut idempotency_key, mut if_none_match) = (String::new(), String::new());
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => authorization = value.to_owned(),
            "idempotency-key" => idempotency_key = value.to_owned(),
            "if-none-match" => if_none_match = value.to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        method,
        path,
        authorization,
        idempotency_key,
        if_none_match,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    })
}

fn response(status: u16, kind: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status} Whatever\r\ncontent-type: application/{kind}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn usual(request: &Request) -> Reply {
    match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/v1/leases") => Reply::Json(201, lease(request)),
        ("GET", "/v1/leases") => Reply::Json(200, json!({ "leases": [] })),
        // Asked when a command failed; nothing more is known of it.
        ("GET", path) if path.ends_with("?wait_s=0") => Reply::Html(404),
        ("GET", _) => Reply::Hang,
        ("POST", path) if path.ends_with("/heartbeat") => Reply::Json(200, json!({})),
        ("DELETE", _) => Reply::Raw(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        _ => Reply::Html(404),
    }
}

/// An active lease whose client certificate is made from the request's CSR.
pub(crate) fn lease(request: &Request) -> Value {
    let csr = request.body["client_csr_pem"].as_str().unwrap();
    let (ca_pem, cert_pem) = sign(csr);
    json!({
        "id": LEASE, "state": "active", "engine": "28", "size": "small", "ttl_s": 3600,
        "created_at": "2026-01-31T11:59:59Z", "ready_at": "2026-01-31T12:00:00Z",
        "expires_at": "2026-01-31T13:00:00Z", "warm": true,
        "keepalive_s": request.body["keepalive_s"], "idle_s": request.body["idle_s"],
        "docker": {
            "host": "tcp://127.0.0.1:23760", "ca_pem": ca_pem, "cert_pem": cert_pem,
        },
        "something_new": { "of": "a later version" },
    })
}

/// Signs a request with a fresh authority; gives both certificates.
pub(crate) fn sign(csr_pem: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name
        .push(rcgen::DnType::CommonName, "machine");
    let ca_pem = ca.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, key);
    let csr = rcgen::CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
    (ca_pem, csr.signed_by(&issuer).unwrap().pem())
}

/// A problem document.
pub(crate) fn problem(status: u16, code: &str, detail: &str) -> Value {
    json!({
        "type": "about:blank", "title": "Title", "status": status, "code": code,
        "detail": detail, "request_id": "r-42",
    })
}
