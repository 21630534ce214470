//! The API against a real store, with a reconciler of a few lines in the place of the real one.

mod auth;
mod bad_input;
mod framing;
mod leases;
mod logs;
mod reconciler;
mod token;
mod waiting;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use rcgen::{CertificateParams, KeyPair};
use remote_docker_api::{ErrorCode, PROBLEM_CONTENT_TYPE, Problem};
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;
use time::macros::datetime;
use tower::ServiceExt;

use super::*;
use crate::config::Config;
use crate::lease::LeaseRow;

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
const TOKEN: &str = "rdt_0123456789abcdef0123456789abcdef";
/// Far beyond anything that goes well, so that only what hangs runs into it.
const FAR: Duration = Duration::from_secs(30);

struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> OffsetDateTime {
        NOW
    }
}

/// An API with a store of its own.
struct Fixture {
    api: Arc<ApiState>,
    router: Router,
    _folder: TempDir,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state.db")).await.unwrap();
        let config = Config::default();
        let engines = [("26", "26.1.5"), ("28", "28.5.0")].map(|(name, version)| EngineOffer {
            name: name.to_owned(),
            version: version.to_owned(),
        });
        let readiness = Readiness::new(["hypervisor"]);
        readiness.set("hypervisor", Check::Ok);
        let api = Arc::new(ApiState {
            store: Arc::new(store),
            catalogue: Catalogue::new(engines.into(), Some("26"), config.sizes, "small").unwrap(),
            lease: config.lease,
            max_body_bytes: config.http.max_body_bytes,
            relay_host: config.relay.advertised_host(),
            clock: Arc::new(FixedClock),
            readiness,
            token: TokenHash::of(TOKEN.as_bytes()),
            background: TaskTracker::new(),
            stopping: CancellationToken::new(),
        });
        Self {
            router: router(api.clone()),
            api,
            _folder: folder,
        }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        send(self.router.clone(), request).await
    }

    async fn call(&self, method: Method, path: &str) -> Answer {
        self.send(with_token(method, path).body(Body::empty()).unwrap())
            .await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path).await
    }

    async fn post(&self, body: impl Into<Body>) -> Answer {
        self.send(post(body)).await
    }

    /// The one lease there is, as soon as `wanted` says so of it.
    async fn lease_once(&self, wanted: impl Fn(&LeaseRow) -> bool) -> LeaseRow {
        let mut changes = self.api.store.changes();
        let mut last = Vec::new();
        let look = async {
            loop {
                last = self.api.store.live_leases().await.unwrap();
                if let [row] = last.as_slice()
                    && wanted(row)
                {
                    return row.clone();
                }
                changes.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(FAR, look).await {
            Ok(row) => row,
            Err(_) => panic!("the lease never came to what was waited for: {last:?}"),
        }
    }

    async fn assert_no_lease(&self) {
        assert_eq!(self.api.store.live_leases().await.unwrap(), []);
    }
}

async fn send(router: Router, request: Request<Body>) -> Answer {
    let response = router.oneshot(request);
    let response = tokio::time::timeout(FAR, response).await;
    let (parts, body) = response.expect("no answer").unwrap().into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.to_vec(),
    }
}

fn with_token(method: Method, path: &str) -> axum::http::request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
}

fn post(body: impl Into<Body>) -> Request<Body> {
    with_token(Method::POST, "/v1/leases")
        .body(body.into())
        .unwrap()
}

/// A request that is good, with the members of `changes` in the place of its own.
fn order(changes: Value) -> String {
    let mut order = json!({ "client_csr_pem": csr() });
    let members = order.as_object_mut().unwrap();
    members.extend(changes.as_object().unwrap().clone());
    order.to_string()
}

fn csr() -> String {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key);
    request.unwrap().pem().unwrap()
}

impl Answer {
    #[track_caller]
    fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(&self.body)))
    }

    /// The problem in it, after everything that all problems have in common was checked.
    #[track_caller]
    fn problem(&self, status: u16, code: ErrorCode) -> Problem {
        let problem: Problem = self.json();
        assert_eq!(
            (self.status.as_u16(), problem.code),
            (status, code),
            "{problem:?}"
        );
        assert_eq!(problem.status, status);
        assert_eq!(self.header("content-type"), PROBLEM_CONTENT_TYPE);
        assert_eq!(self.header("cache-control"), "no-store");
        assert_eq!(
            Some(self.header("x-request-id")),
            problem.request_id.as_deref()
        );
        assert!(problem.detail.len() < 600, "{problem:?}");
        assert!(!problem.title.is_empty());
        problem
    }

    #[track_caller]
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value
            .unwrap_or_else(|| panic!("no {name}"))
            .to_str()
            .unwrap()
    }
}
