//! What the audit log has of requests, and what no log, no number and no file has.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use tokio::task::JoinHandle;

use super::*;
use crate::access::LeaseTokens;
use crate::audit::{AuditFile, Keeper};
use crate::config::{LogConfig, LogFormat};
use crate::http::places::{Limits, Places};
use crate::telemetry;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// An API with an audit log.
struct Audited {
    fixture: Fixture,
    file: PathBuf,
    stop: CancellationToken,
    keeping: JoinHandle<()>,
}

impl Audited {
    async fn new() -> Self {
        let leases = LeaseTokens::with_key(b"a key of tests");
        let fixture = Fixture::new().await;
        let fixture = fixture.authenticated(|authenticator| authenticator.with_leases(leases));
        let file = fixture.folder.path().join("audit.jsonl");
        let metrics = fixture.api.metrics.clone();
        let (audit, keeper): (_, Keeper) = Audit::in_file(AuditFile::new(file.clone()), metrics);
        let fixture = fixture.with(|api| api.audit = audit);
        let stop = CancellationToken::new();
        let (store, clock) = (fixture.api.store.clone(), fixture.clock.clone());
        let keeping = tokio::spawn(keeper.run(store, clock, stop.clone()));
        Self {
            fixture,
            file,
            stop,
            keeping,
        }
    }

    /// A request of the peer.
    async fn call(&self, token: Option<&str>, method: Method, path: &str, body: &str) -> Answer {
        let limits = Limits {
            all: 1,
            per_peer: 1,
        };
        let place = Places::new(limits).enter(PEER).unwrap();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-request-id", "mine");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let mut request = request.body(Body::from(body.to_owned())).unwrap();
        request.extensions_mut().insert(place.trust());
        self.fixture.send(request).await
    }

    /// All that was written when all is written.
    async fn end(self) -> (Fixture, Vec<Value>) {
        self.stop.cancel();
        self.keeping.await.unwrap();
        let text = std::fs::read_to_string(&self.file).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        (self.fixture, lines.collect())
    }
}

#[tokio::test]
async fn who_was_refused_and_why_is_told_and_who_asked_from_where() {
    let audited = Audited::new().await;
    let ci = audited.fixture.token("ci", "a", &[]);
    let eyes = audited.fixture.token("eyes", "a", &[Scope::Read]);
    let gone = audited.fixture.token("gone", "b", &[]);
    command::revoke(&audited.fixture.config(), "gone", NOW).unwrap();
    let good = order(json!({ "wait_s": 0 }));
    let long = order(json!({ "wait_s": 0, "ttl_s": 0 }));
    let path = "/v1/leases";
    audited.call(None, Method::GET, path, "").await;
    audited.call(Some("rdt_wrong"), Method::GET, path, "").await;
    audited.call(Some(&gone), Method::GET, path, "").await;
    audited.call(Some(&eyes), Method::POST, path, &good).await;
    audited.call(Some(&ci), Method::POST, path, &long).await;
    let taken = audited.call(Some(&ci), Method::POST, path, &good).await;
    assert_eq!(taken.status, StatusCode::ACCEPTED);
    // Nothing of what is only looked at.
    audited.call(Some(&eyes), Method::GET, path, "").await;
    let (_, lines) = audited.end().await;

    let cli = |line: &Value| line["token"].is_string();
    let made: Vec<_> = lines.iter().filter(|line| cli(line)).collect();
    assert_eq!(made.len(), 4, "{lines:?}");
    assert_eq!(made[3]["event"], "token_revoked");
    let brief = |line: &Value| {
        let member = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
        assert_eq!(
            (member("remote"), member("request_id")),
            (PEER.to_string(), "mine".into())
        );
        ["event", "project", "credential", "code"]
            .map(member)
            .join(" | ")
    };
    let told: Vec<_> = lines.iter().filter(|line| !cli(line)).map(brief).collect();
    assert_eq!(
        told,
        [
            "access_refused | - | - | unauthorized",
            "access_refused | - | - | unauthorized",
            "access_refused | - | token gone | token_revoked",
            "access_refused | - | token eyes | missing_scope",
            "lease_refused | a | token ci | invalid_ttl",
            "lease_asked | a | token ci | -",
        ]
    );
}

#[tokio::test]
async fn who_moved_the_end_of_a_lease_is_told_beside_who_asked_for_it() {
    let audited = Audited::new().await;
    let running = audited.fixture.reconciled();
    let ci = audited.fixture.token("ci", "a", &[]);
    let colleague = audited.fixture.token("colleague", "a", &[]);
    let body = order(json!({ "egress": "none" }));
    let lease: Lease = audited
        .call(Some(&ci), Method::POST, "/v1/leases", &body)
        .await
        .json();
    let own = lease.token.expect("a credential of the lease's own");
    let path = format!("/v1/leases/{}", lease.id);
    for (token, verb, body) in [
        (own.reveal(), "extend", r#"{"remaining_s": 7200}"#),
        (&*colleague, "keep", r#"{"keep_s": 60}"#),
    ] {
        let path = format!("{path}/{verb}");
        let answer = audited.call(Some(token), Method::POST, &path, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{verb}");
    }
    let gone = audited
        .call(Some(TOKEN), Method::DELETE, &path, "")
        .await
        .status;
    // The operator's token is of another project.
    assert_eq!(gone, StatusCode::NOT_FOUND);
    let gone = audited.call(Some(&colleague), Method::DELETE, &path, "");
    assert_eq!(gone.await.status, StatusCode::NO_CONTENT);
    let store = audited.fixture.api.store.clone();
    let mut changes = store.changes();
    let over = async {
        while !store.live_leases().await.unwrap().is_empty() {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(FAR, over).await.expect("it ends");
    drop(running);
    let (_, lines) = audited.end().await;

    let lines = lines.iter().filter(|line| line["lease"].is_string());
    let told: Vec<String> = lines
        .map(|line| {
            assert_eq!(
                (&line["credential"], &line["egress"]),
                (&json!("token ci"), &json!("none"))
            );
            let caller = &line["caller"];
            if !caller.is_null() {
                let from = (&caller["remote"], &caller["request_id"]);
                assert_eq!(from, (&json!(PEER), &json!("mine")));
            }
            let caller = caller["credential"].as_str().unwrap_or("-");
            format!("{} {caller}", line["event"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        told,
        [
            "lease_asked -".to_owned(),
            "lease_active -".to_owned(),
            format!("lease_extended lease {}", lease.id),
            "lease_kept token colleague".to_owned(),
            "lease_ended token colleague".to_owned(),
        ]
    );
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

// One thread, so that the subscriber of this thread sees all tasks.
#[tokio::test(flavor = "current_thread")]
async fn no_secret_of_a_whole_life_is_in_a_log_a_number_or_a_file() {
    let log = Log::default();
    let writer = log.clone();
    let config = LogConfig {
        filter: "trace".to_owned(),
        format: LogFormat::Json,
    };
    let subscriber = telemetry::subscriber(&config, move || writer.clone(), false).unwrap();
    let guard = tracing::subscriber::set_default(subscriber);

    let audited = Audited::new().await;
    let running = audited.fixture.reconciled();
    let ci = audited.fixture.token("ci", "a", &[]);
    let gone = audited.fixture.token("gone", "b", &[]);
    command::revoke(&audited.fixture.config(), "gone", NOW).unwrap();
    let csr = csr();
    let body = order(json!({ "client_csr_pem": csr, "keepalive_s": 60 }));
    let lease: Lease = audited
        .call(Some(&ci), Method::POST, "/v1/leases", &body)
        .await
        .json();
    let docker = lease.docker.unwrap();
    let own = lease.token.expect("a credential of the lease's own");
    let path = format!("/v1/leases/{}", lease.id);
    for (verb, body) in [
        ("heartbeat", ""),
        ("extend", r#"{"remaining_s": 7200}"#),
        ("keep", r#"{"keep_s": 60}"#),
    ] {
        let path = format!("{path}/{verb}");
        let answer = audited.call(Some(&ci), Method::POST, &path, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{verb}");
    }
    let wrong = "rdt_wr0ng-t0ken";
    for (token, csr) in [
        (&*gone, &*csr),
        (wrong, &*csr),
        (&*ci, "n0-csr"),
        (TOKEN, "n0-csr"),
    ] {
        let body = order(json!({ "client_csr_pem": csr }));
        audited
            .call(Some(token), Method::POST, "/v1/leases", &body)
            .await;
    }
    std::fs::write(audited.fixture.folder.path().join("tokens.json"), &ci).unwrap();
    audited.call(Some(&ci), Method::GET, "/v1/leases", "").await;
    let ready = audited.fixture.get("/readyz").await;
    std::fs::remove_file(audited.fixture.folder.path().join("tokens.json")).unwrap();
    let metrics = audited.fixture.get("/metrics").await;
    audited.fixture.call(Method::DELETE, &path).await;
    drop(running);
    let (fixture, lines) = audited.end().await;
    drop(guard);

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("POST /v1/leases answered 201"), "{log}");
    assert_eq!(metrics.status, StatusCode::OK);
    let extended = lines
        .iter()
        .filter(|line| line["event"] == "lease_extended");
    assert_eq!(extended.count(), 1, "{lines:?}");
    let audit = std::fs::read_to_string(fixture.folder.path().join("audit.jsonl")).unwrap();
    let text = |answer: &Answer| String::from_utf8(answer.body.clone()).unwrap();
    let places = [
        ("log", log),
        ("audit log", audit),
        ("metrics", text(&metrics)),
        ("readiness", text(&ready)),
    ];
    let pems = [&csr, &docker.ca_pem, &docker.cert_pem].map(|pem| {
        let lines = pem.lines().filter(|line| !line.starts_with("-----"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    });
    let tokens = [&ci, &gone, own.reveal(), wrong, TOKEN, "n0-csr"].map(str::to_owned);
    for secret in pems.concat().into_iter().chain(tokens) {
        assert!(secret.len() > 5, "{secret} is in everything");
        for (name, text) in &places {
            assert!(!text.contains(&secret), "{secret} is in the {name}: {text}");
        }
    }
}
