//! `show`, `extend` and `logs`.

use std::sync::atomic::{AtomicUsize, Ordering};

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::fake::{Fake, LEASE, Reply, problem};
use crate::sandbox::Sandbox;

fn active() -> Value {
    json!({
        "id": LEASE, "state": "active", "engine": "28", "size": "small", "ttl_s": 3600,
        "created_at": "2026-01-31T11:59:58Z", "ready_at": "2026-01-31T12:00:00Z",
        "expires_at": "2026-01-31T13:00:00Z", "warm": true, "keepalive_s": 60, "idle_s": 900, "egress": "open",
        "heartbeat_due_at": "2026-01-31T12:01:00Z", "labels": { "job": "nightly" },
        "docker": { "host": "tcp://127.0.0.1:23760", "ca_pem": "CA", "cert_pem": "CERT" },
        "timings": [
            { "step": "clone", "duration_ms": 310 }, { "step": "activate", "duration_ms": 420 },
        ],
    })
}

fn other(changes: Value) -> Value {
    let mut lease = json!({
        "id": LEASE, "state": "waiting", "engine": "28", "size": "small", "ttl_s": 3600,
        "created_at": "2026-01-31T11:59:58Z",
    });
    for (name, value) in changes.as_object().unwrap() {
        lease[name] = value.clone();
    }
    lease
}

/// What the program says when the server answers each question with this.
fn told(lease: Value, args: &str) -> String {
    let server = Fake::on("GET", move |_| Reply::Json(200, lease.clone()));
    let sandbox = Sandbox::new(&server);
    let shown = sandbox.show(sandbox.program(args).env("REMOTE_DOCKER_LEASE", LEASE));
    assert_eq!(server.calls(), [format!("GET /v1/leases/{LEASE}?wait_s=0")]);
    shown
}

#[test]
fn show_tells_all_about_a_lease() {
    let waiting = json!({ "queue": { "position": 3, "doing": "queued", "estimated_wait_s": 40 } });
    let cloning = json!({ "queue": { "position": 1, "doing": "cloning" } });
    let ended = json!({
        "state": "ended", "end_reason": "vm_lost", "ended_at": "2026-01-31T12:30:00Z",
        "end_detail": "kernel panic\u{1b}[2J",
    });
    let all = [
        told(active(), "show"),
        told(active(), &format!("show {LEASE} --format json")),
        told(other(waiting), "show"),
        told(other(cloning), "show"),
        told(other(ended), "show"),
    ];
    assert_snapshot!(all.concat());
}

#[test]
fn the_server_that_made_the_lease_is_asked_about_it() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    assert!(sandbox.program("-q").status().unwrap().success());
    let mut command = sandbox.program("extend 30m");
    command
        .env("REMOTE_DOCKER_LEASE", LEASE)
        .env("REMOTE_DOCKER_URL", "http://127.0.0.1:9");
    command.output().unwrap();
    let extend = format!("POST /v1/leases/{LEASE}/extend");
    assert_eq!(server.calls()[1..], [extend]);
}

#[test]
fn extend_asks_for_so_much_from_now_and_may_be_repeated() {
    let tries = AtomicUsize::new(0);
    let server = Fake::on("POST", move |_| {
        match tries.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::Problem(problem(503, "not_ready", "it restarts")),
            1 => Reply::Raw(Vec::new()),
            _ => Reply::Json(200, active()),
        }
    });
    let sandbox = Sandbox::new(&server);
    let mut command = sandbox.program("extend 1h30m");
    let shown = sandbox.show(command.env("REMOTE_DOCKER_LEASE", LEASE));
    let again = sandbox.show(&mut sandbox.program(&format!("extend 1h30m {LEASE}")));
    assert_eq!(shown, again);
    let requests = server.requests();
    assert_eq!(requests.len(), 4);
    for request in requests {
        assert_eq!(request.path, format!("/v1/leases/{LEASE}/extend"));
        assert_eq!(request.body, json!({ "remaining_s": 5400 }));
    }
    assert_snapshot!(shown);
}

#[test]
fn logs_show_both_parts_or_one() {
    let server = Fake::on("GET", |_| {
        Reply::Json(
            200,
            json!({
                "console": "[    0.1] Linux\tversion\n[    0.2] \u{1b}[31mred\n",
                "docker": "level=info msg=\"API listen\"\nlast line",
            }),
        )
    });
    let sandbox = Sandbox::new(&server);
    let mut all = String::new();
    for args in ["", " --only docker", " --only console", " --format json"] {
        all += &sandbox.show(&mut sandbox.program(&format!("logs {LEASE}{args}")));
    }
    assert_snapshot!(all);
    for call in server.calls() {
        assert_eq!(call, format!("GET /v1/leases/{LEASE}/logs"));
    }
}

#[test]
fn a_lease_that_is_not_there_or_over_or_silent_is_told() {
    let mut all = String::new();
    for (method, args, answer) in [
        (
            "GET",
            "show",
            problem(404, "lease_not_found", "there is no lease l-0000000000001"),
        ),
        (
            "GET",
            "logs",
            problem(409, "lease_ended", "lease l-0000000000001 is over"),
        ),
        (
            "GET",
            "logs",
            problem(
                409,
                "lease_not_active",
                "lease l-0000000000001 has no machine yet",
            ),
        ),
        (
            "GET",
            "logs",
            problem(
                503,
                "guest_silent",
                "the machine does not answer the server",
            ),
        ),
        (
            "POST",
            "extend 30m",
            problem(409, "lease_ended", "lease l-0000000000001 is over"),
        ),
        (
            "POST",
            "extend 30m",
            problem(
                422,
                "invalid_extension",
                "the lease can last until 2026-02-01T12:00:00Z at the latest",
            ),
        ),
    ] {
        let server = Fake::on(method, move |_| Reply::Problem(answer.clone()));
        let sandbox = Sandbox::new(&server);
        let mut command = sandbox.program(args);
        all += &sandbox.show(command.env("REMOTE_DOCKER_LEASE", LEASE));
        assert_eq!(server.calls().len(), 1);
    }
    assert_snapshot!(all);
}
