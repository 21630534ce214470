//! What the machine of a lease runs out of is told while a command uses it.

use std::sync::atomic::{AtomicUsize, Ordering};

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::fake::{Fake, LEASE, Reply, Request};
use crate::run::run;
use crate::sandbox::Sandbox;

/// The lease with so many of its warnings.
fn with_warnings(count: usize) -> Value {
    let warnings = [
        (
            "disk_low",
            "the machine's disk is 92 % full, 1536 MiB are left",
        ),
        (
            "out_of_memory",
            "\"cc1\" in container \"web\" was killed: out of memory (limit 64 MiB)",
        ),
        (
            "out_of_memory",
            "\"cc1\" was killed: the machine is out of memory",
        ),
        (
            "disk_full",
            "the machine's disk is full,\u{1b}[2J 3 MiB are left",
        ),
        // Of a server that knows more.
        ("hiccups", "the machine has hiccups"),
    ];
    let warnings = warnings.iter().zip(3..).take(count);
    let warnings = warnings.map(|((kind, detail), seq)| {
        json!({ "seq": seq, "at": "2026-01-31T12:00:07Z", "kind": kind, "detail": detail })
    });
    json!({
        "id": LEASE, "state": "active", "engine": "28", "size": "small", "ttl_s": 3600,
        "created_at": "2026-01-31T11:59:59Z", "warnings": warnings.collect::<Vec<_>>(),
    })
}

fn is_last_look(request: &Request) -> bool {
    request.path.ends_with("?wait_s=0")
}

#[test]
fn each_thing_is_told_once_and_a_command_that_failed_is_followed_by_a_last_look() {
    let looks = AtomicUsize::new(0);
    let server = Fake::on("GET", move |request| {
        if is_last_look(request) {
            return Reply::Json(200, with_warnings(5));
        }
        match looks.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::Json(200, with_warnings(1)),
            1 => Reply::Json(200, with_warnings(3)),
            _ => Reply::Hang,
        }
    });
    let sandbox = Sandbox::new(&server);
    let mut running = sandbox.start(&mut run(&sandbox, "-q", "cat; exit 3"));
    let first = ["% full", "in container", "the machine is out of memory"];
    let before = first.map(|words| running.expect_stderr(words)).concat();
    running.close_stdin();
    let output = running.finish();
    assert_eq!(output.status.code(), Some(3));
    assert_snapshot!(before + &sandbox.shown(&output));
    server.assert_given_back(&sandbox);
}

#[test]
fn a_command_that_succeeds_is_not_held_up() {
    let server = Fake::on("GET", |_| Reply::Hang);
    let sandbox = Sandbox::new(&server);
    let output = run(&sandbox, "-q", "true").output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    assert!(!server.requests().iter().any(is_last_look));
}

#[test]
fn nothing_is_missed_between_two_looks() {
    let looks = AtomicUsize::new(0);
    let server = Fake::on("GET", move |request| {
        if is_last_look(request) {
            return Reply::Html(404);
        }
        let tagged = |tag: u32, body: &Value| {
            let body = body.to_string();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
            let length = body.len();
            let text =
                format!("{head}\r\netag: W/\"{tag}\"\r\ncontent-length: {length}\r\n\r\n{body}");
            Reply::Raw(text.into_bytes())
        };
        match looks.fetch_add(1, Ordering::SeqCst) {
            0 => tagged(7, &with_warnings(0)),
            1 => Reply::Raw(b"HTTP/1.1 304 Not Modified\r\nconnection: close\r\n\r\n".to_vec()),
            2 => tagged(9, &with_warnings(1)),
            _ => Reply::Hang,
        }
    });
    let sandbox = Sandbox::new(&server);
    let mut running = sandbox.start(&mut run(&sandbox, "-q", "cat"));
    running.expect_stderr("92 % full");
    running.close_stdin();
    assert!(running.finish().status.success());
    let requests = server.requests();
    let looks = requests.iter().filter(|one| one.method == "GET");
    let seen: Vec<_> = looks.map(|look| look.if_none_match.as_str()).collect();
    assert!(seen.starts_with(&["", "W/\"7\"", "W/\"7\""]), "{seen:?}");
}

#[test]
fn they_are_shown() {
    let server = Fake::on("GET", |_| Reply::Json(200, with_warnings(5)));
    let sandbox = Sandbox::new(&server);
    let shown = sandbox.show(&mut sandbox.program(&format!("show {LEASE}")));
    assert_snapshot!(shown);
}
