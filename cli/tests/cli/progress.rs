//! What is told while a machine is waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use insta::assert_snapshot;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::fake::{Fake, LEASE, Reply, Request, lease};
use crate::sandbox::Sandbox;
use crate::terminal::Terminal;

/// A lease that waits, with its place and by whose request it was made.
fn waiting(csr_pem: &str, queue: Value) -> Value {
    let digest = Sha256::digest(csr_pem.as_bytes());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "id": LEASE, "state": "waiting", "engine": "28", "size": "small", "ttl_s": 3600,
        "created_at": "2026-01-31T11:59:58Z", "queue": queue, "csr_sha256": digest,
    })
}

/// A server with a queue: it tells these places, one for each look, and then hands a machine out.
fn queued(places: Vec<Value>) -> Fake {
    let asked: Arc<(std::sync::Mutex<String>, std::sync::Condvar)> = Arc::default();
    let looks = Arc::new(AtomicUsize::new(0));
    let (asking, looking) = (Arc::clone(&asked), Arc::clone(&looks));
    let count = places.len();
    Fake::with(vec![
        (
            "POST",
            Box::new(move |request: &Request| {
                let (csr, changed) = &*asking;
                let mut csr = csr.lock().unwrap();
                *csr = request.body["client_csr_pem"].as_str().unwrap().to_owned();
                // One more than there is to tell, so that all of it has arrived by then.
                let served = |_: &mut String| looking.load(Ordering::SeqCst) <= count;
                let limit = std::time::Duration::from_secs(20);
                let (_csr, late) = changed.wait_timeout_while(csr, limit, served).unwrap();
                assert!(!late.timed_out(), "too few looks");
                Reply::Json(201, lease(request))
            }),
        ),
        (
            "GET",
            Box::new(move |request| {
                let (csr, changed) = &*asked;
                let csr = csr.lock().unwrap();
                let look = looks.fetch_add(1, Ordering::SeqCst);
                changed.notify_all();
                let place = places.get(look).cloned().unwrap_or(Value::Null);
                let own = waiting(&csr, place);
                if request.path == "/v1/leases" {
                    let other = waiting(
                        "another request",
                        json!({ "position": 1, "doing": "cloning" }),
                    );
                    Reply::Json(200, json!({ "leases": [other, own] }))
                } else {
                    Reply::Json(200, own)
                }
            }),
        ),
    ])
}

fn places() -> Vec<Value> {
    vec![
        json!({ "position": 3, "doing": "queued", "estimated_wait_s": 40 }),
        json!({ "position": 3, "doing": "queued", "estimated_wait_s": 39 }),
        json!({ "position": 1, "doing": "cloning" }),
        json!({ "position": 1, "doing": "activating" }),
    ]
}

/// How long it took so far differs from run to run.
fn without_seconds(line: &str) -> String {
    let told = line.strip_suffix(" s so far");
    let told = told.and_then(|told| told.rsplit_once(", "));
    match told {
        Some((told, seconds)) if seconds.parse::<u64>().is_ok() => format!("{told}, [N] s so far"),
        _ => line.to_owned(),
    }
}

#[test]
fn plain_lines_tell_what_changes() {
    let server = queued(places());
    let sandbox = Sandbox::new(&server);
    assert_snapshot!(sandbox.show(&mut sandbox.program("")));
    let own = format!("GET /v1/leases/{LEASE}?wait_s=0");
    assert_eq!(
        server.calls()[..4],
        ["POST /v1/leases", "GET /v1/leases", &own, &own]
    );
}

#[test]
fn a_terminal_gets_one_line_that_is_drawn_anew() {
    let server = queued(places());
    let sandbox = Sandbox::new(&server);
    let mut terminal = Terminal::run(sandbox.program("run -- true"));
    let seen = terminal.read_to_end();
    assert!(terminal.wait().success());
    let seen = sandbox.tidy(&seen).replace("\r\u{1b}[K", "\n<clear> ");
    let lines: Vec<_> = seen.lines().map(without_seconds).collect();
    assert_snapshot!(lines.join("\n"));

    // One that cannot do that gets plain lines.
    let server = queued(places());
    let sandbox = Sandbox::new(&server);
    let mut command = sandbox.program("run -- true");
    command.env("TERM", "dumb");
    let mut terminal = Terminal::run(command);
    let seen = terminal.read_to_end();
    assert!(
        !seen.contains('\u{1b}') && seen.contains("\ncloning\n"),
        "{seen}"
    );
}

#[test]
fn quiet_is_quiet_and_asks_for_nothing() {
    let server = Fake::on("POST", |_| Reply::Hang);
    let sandbox = Sandbox::new(&server);
    let output = sandbox
        .program("-q --wait 1s --timeout 500ms")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 2);
    assert_eq!(server.calls(), ["POST /v1/leases"]);
}

#[test]
fn a_list_without_the_lease_is_not_asked_for_again_and_again() {
    let server = Fake::on("POST", |_| Reply::Hang);
    let sandbox = Sandbox::new(&server);
    let mut command = sandbox.program("--wait 5s --timeout 500ms");
    assert_eq!(command.output().unwrap().status.code(), Some(69));
    let calls = server.calls();
    let lists = calls.iter().filter(|call| *call == "GET /v1/leases");
    assert_eq!(lists.count(), 3, "{calls:?}");
}

#[test]
fn a_server_that_tells_nothing_of_the_queue_is_waited_for_all_the_same() {
    let server = Fake::with(vec![
        ("POST", Box::new(|_: &Request| Reply::Hang)),
        ("GET", Box::new(|_: &Request| Reply::Html(500))),
    ]);
    let sandbox = Sandbox::new(&server);
    let running = sandbox.start(&mut sandbox.program(""));
    server.wait_for_call("GET");
    running.signal(Signal::SIGTERM);
    server.wait_for_abandoned("POST");
    let output = running.finish();
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: interrupted by SIGTERM\n"
    );
}
