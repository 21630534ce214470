//! What the log has of a request, and what it must not have.

use std::io::Write;
use std::sync::Mutex;

use super::*;
use crate::config::{LogConfig, LogFormat};
use crate::telemetry;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The lines of the whole text that would give it away, without the PEM frame.
fn secrets(pem: &str) -> Vec<&str> {
    pem.lines()
        .filter(|line| !line.starts_with("-----"))
        .collect()
}

fn logging(filter: &str) -> (Lines, tracing::subscriber::DefaultGuard) {
    let lines = Lines::default();
    let writer = lines.clone();
    let config = LogConfig {
        filter: filter.to_owned(),
        format: LogFormat::Text,
    };
    let subscriber = telemetry::subscriber(&config, move || writer.clone(), false).unwrap();
    (lines, tracing::subscriber::set_default(subscriber))
}

#[tokio::test(flavor = "current_thread")]
async fn who_has_no_token_does_not_fill_the_log() {
    let (lines, _guard) = logging("info");
    let fixture = Fixture::new().await;
    fixture.get("/v1/leases").await;
    let seen = lines.0.lock().unwrap().len();
    assert!(seen > 0);
    for path in ["/v1/leases", "/v1/leases/l-0000000000007", "/", "/readyz"] {
        let request = Request::get(path).body(Body::empty());
        fixture.send(request.unwrap()).await;
    }
    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert_eq!(&log[seen..], "");
}

// One thread, so that the subscriber of this thread sees all tasks.
#[tokio::test(flavor = "current_thread")]
async fn requests_leave_a_line_with_their_id_and_no_secret() {
    let (lines, _guard) = logging("trace");

    let fixture = Fixture::new().await;
    let running = fixture.reconciled();
    let csr = csr();
    let taken = fixture.post(order(json!({ "client_csr_pem": csr }))).await;
    let lease: remote_docker_api::Lease = taken.json();
    let docker = lease.docker.unwrap();
    fixture.post("{\"ttl_s\": \"hunter2\"}").await;
    let refused = fixture.post(order(json!({ "client_csr_pem": "x" }))).await;
    let wrong = Request::get("/v1/leases").header("authorization", "Bearer wr0ng-t0ken");
    fixture.send(wrong.body(Body::empty()).unwrap()).await;
    drop(running);
    let waiting = tokio::spawn(send(fixture.router.clone(), post(order(json!({})))));
    let second = async || fixture.api.store.live_leases().await.unwrap().len() == 2;
    let mut changes = fixture.api.store.changes();
    while !second().await {
        changes.changed().await.unwrap();
    }
    waiting.abort();
    let _ = waiting.await;
    fixture.api.background.close();
    fixture.api.background.wait().await;

    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let expected = format!("request{{request_id={}}}", refused.header("x-request-id"));
    assert!(log.contains(&expected), "{expected} not in {log}");
    assert!(log.contains("POST /v1/leases answered 201"), "{log}");
    assert!(log.contains("POST /v1/leases answered 422"), "{log}");
    assert!(log.contains("GET /v1/leases answered 401"), "{log}");
    assert!(
        log.contains(&format!("lease {} is asked for", lease.id)),
        "{log}"
    );
    assert!(log.contains("its client went away"), "{log}");
    for secret in [TOKEN, "wr0ng-t0ken", "hunter2"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    for pem in [&csr, &docker.ca_pem, &docker.cert_pem] {
        for line in secrets(pem) {
            assert!(!log.contains(line), "{line} in {log}");
        }
    }
}
