//! The API against a real store, with a reconciler of a few lines in the place of the real one.

mod askers;
mod audit;
mod auth;
mod bad_input;
mod deadlines;
mod events;
mod framing;
mod guest_logs;
mod idempotency;
mod leases;
mod logs;
mod metrics;
mod oidc;
mod openapi;
mod projects;
mod queue;
mod reconciler;
mod tls;
mod waiting;
mod wire;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use rcgen::{CertificateParams, KeyPair};
use remote_docker_api::{ErrorCode, Lease, PROBLEM_CONTENT_TYPE, Problem};
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;
use time::macros::datetime;
use tower::ServiceExt;

use super::*;
use crate::access::command::{self, NewToken};
use crate::access::{Scope, TokenHash, Tokens};
use crate::config::{Config, ProjectConfig};
use crate::lease::LeaseRow;

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
const TOKEN: &str = "rdt_0123456789abcdef0123456789abcdef";
/// The projects that there are beside the default.
const PROJECTS: [&str; 2] = ["a", "b"];
/// Far beyond anything that goes well, so that only what hangs runs into it.
const FAR: Duration = Duration::from_secs(30);

/// Shows [`NOW`] until it is set.
struct SetClock {
    now: Mutex<OffsetDateTime>,
    ahead: Mutex<time::Duration>,
}

impl SetClock {
    fn set(&self, now: OffsetDateTime) {
        *self.now.lock().unwrap() = now;
    }

    fn set_ahead(&self, ahead: time::Duration) {
        *self.ahead.lock().unwrap() = ahead;
    }
}

impl Clock for SetClock {
    fn now(&self) -> OffsetDateTime {
        *self.now.lock().unwrap()
    }

    fn ahead(&self) -> time::Duration {
        *self.ahead.lock().unwrap()
    }
}

/// An API with a store of its own.
struct Fixture {
    api: Arc<ApiState>,
    router: Router,
    outlook: watch::Sender<Arc<BTreeMap<LeaseId, Queue>>>,
    logs: Arc<guest_logs::FakeLogs>,
    clock: Arc<SetClock>,
    folder: TempDir,
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
        Self::on(tempfile::tempdir().unwrap()).await
    }

    /// A server on the state of one before.
    async fn on(folder: TempDir) -> Self {
        let store = Store::open(&folder.path().join("state.db")).await.unwrap();
        let config = Config::default();
        let engines = [("26", "26.1.5"), ("28", "28.5.0")].map(|(name, version)| EngineOffer {
            name: name.to_owned(),
            version: version.to_owned(),
        });
        let readiness = Readiness::new(["hypervisor"]);
        readiness.set("hypervisor", Check::Ok);
        let outlook = watch::Sender::default();
        let logs = Arc::new(guest_logs::FakeLogs::default());
        let clock = Arc::new(SetClock {
            now: Mutex::new(NOW),
            ahead: Mutex::default(),
        });
        let authenticator = Authenticator::new(
            TokenHash::of(TOKEN.as_bytes()),
            Tokens::open(folder.path().join("tokens.json")).unwrap(),
            PROJECTS.map(str::to_owned),
            clock.clone(),
        );
        let api = Arc::new(ApiState {
            store: Arc::new(store),
            catalogue: Catalogue::new(engines.into(), Some("26"), config.sizes, "small").unwrap(),
            lease: config.lease,
            max_body_bytes: config.http.max_body_bytes,
            relay_host: config.relay.advertised_host(),
            clock: clock.clone(),
            readiness,
            authenticator,
            projects: Projects::default(),
            audit: Arc::new(Audit::none(Arc::new(Metrics::new()))),
            egress: EgressOffer::default(),
            outlook: outlook.subscribe(),
            logs: logs.clone(),
            metrics: Arc::new(Metrics::new()),
            metrics_public: false,
            lines: Lines::default(),
            streams: Arc::new(Semaphore::new(MOST_STREAMS)),
            background: TaskTracker::new(),
            stopping: CancellationToken::new(),
        });
        Self {
            router: router(api.clone()),
            api,
            outlook,
            logs,
            clock,
            folder,
        }
    }

    /// Changes what the API works with; to be called before anything is asked of it.
    fn with(mut self, change: impl FnOnce(&mut ApiState)) -> Self {
        // The router has the other reference.
        self.router = Router::new();
        change(Arc::get_mut(&mut self.api).unwrap());
        self.router = router(self.api.clone());
        self
    }

    /// The configuration with which the operator of this API makes tokens.
    fn config(&self) -> Config {
        let mut config = Config::default();
        config.state_dir = self.folder.path().to_owned();
        let project = |name: &str| (name.to_owned(), ProjectConfig::default());
        config.projects = PROJECTS.map(project).into();
        config
    }

    /// A new token, as the operator makes it.
    fn token(&self, name: &str, project: &str, scopes: &[Scope]) -> String {
        let new = NewToken {
            name: name.to_owned(),
            project: project.to_owned(),
            good_for: None,
            scopes: scopes.to_vec(),
        };
        command::create(&self.config(), new, self.clock.now())
            .unwrap()
            .token
    }

    /// The machine of this lease is ready.
    async fn grant(&self, id: LeaseId) {
        let row = self.api.store.lease(id).await.unwrap().unwrap();
        reconciler::grant(&self.api.store, &row).await;
    }

    /// An active lease, with these members in its request.
    async fn active(&self, changes: Value) -> Lease {
        let mut changes = changes;
        changes["wait_s"] = 0.into();
        let lease: Lease = self.post(order(changes)).await.json();
        self.grant(lease.id).await;
        self.get(&format!("/v1/leases/{}", lease.id)).await.json()
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
    send_within(FAR, router, request).await
}

async fn send_within(limit: Duration, router: Router, request: Request<Body>) -> Answer {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = router.oneshot(request);
    let response = tokio::time::timeout(limit, response).await;
    let (parts, body) = response.expect("no answer").unwrap().into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let answer = Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.to_vec(),
    };
    openapi::check(&method, &path, &answer);
    answer
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
