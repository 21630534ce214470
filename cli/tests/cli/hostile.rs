//! Servers that are broken, wrong or hostile.

use std::time::{Duration, Instant};

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::fake::{Fake, LEASE, Reply, lease, problem, sign};
use crate::sandbox::Sandbox;

/// What `start` says to this answer. A shell gets nothing but a failure, and nothing may be left.
fn start_with(reply: impl Fn(&crate::fake::Request) -> Reply + Send + Sync + 'static) -> String {
    let (shown, _) = start_and_calls(reply);
    shown
}

fn start_and_calls(
    reply: impl Fn(&crate::fake::Request) -> Reply + Send + Sync + 'static,
) -> (String, Vec<String>) {
    let server = Fake::on("POST", reply);
    let sandbox = Sandbox::new(&server);
    let output = sandbox.program("").output().unwrap();
    assert_eq!(output.stdout, b"false;\n", "{output:?}");
    assert!(!output.stderr.contains(&0x1b), "{output:?}");
    assert!(sandbox.is_clean());
    (sandbox.shown(&output), server.calls())
}

/// What `start` says to a lease with this one value changed; the lease must be given back.
fn start_with_changed(pointer: &'static str, value: Value) -> String {
    let (shown, calls) = start_and_calls(move |request| {
        let mut lease = lease(request);
        *lease.pointer_mut(pointer).unwrap() = value.clone();
        Reply::Json(201, lease)
    });
    assert_eq!(calls[1..], [format!("DELETE /v1/leases/{LEASE}")]);
    shown
}

#[test]
fn a_docker_host_that_a_shell_would_obey_is_refused() {
    let hosts = [
        "",
        "tcp://127.0.0.1:23760\nrm -rf /",
        "tcp://127.0.0.1:23760'; touch owned; '",
        "tcp://$(touch owned):1",
        "tcp://\u{1b}[2J:1",
        "unix:///var/run/docker.sock",
        "ssh://-oProxyCommand=touch:1",
    ];
    let mut shown: Vec<_> = hosts
        .map(|host| start_with_changed("/docker/host", json!(host)))
        .to_vec();
    shown.dedup();
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert_snapshot!(shown[0]);
}

#[test]
fn certificates_that_are_none_are_refused() {
    let (_, other) = sign(&other_csr());
    let long = "x".repeat(500_000);
    let all = [
        start_with_changed("/docker/ca_pem", json!("rubbish\u{1b}[2J")),
        start_with_changed("/docker/cert_pem", json!("")),
        start_with_changed("/docker/cert_pem", json!(long)),
        start_with_changed("/docker/cert_pem", json!(other)),
    ];
    assert_snapshot!(all.concat());
}

fn other_csr() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::default();
    params.serialize_request(&key).unwrap().pem().unwrap()
}

#[test]
fn a_lease_that_cannot_be_used_is_given_back() {
    let all = [
        start_with_changed("/state", json!("waiting")),
        start_with_changed("/state", json!("state of 2031")),
        start_with_changed("/docker", Value::Null),
        start_with_changed("/expires_at", json!("\u{1b}[2Jnever")),
    ];
    assert_snapshot!(all.concat());
}

#[test]
fn answers_that_are_none_are_refused() {
    let raw = |text: &str| {
        let bytes = text.as_bytes().to_vec();
        start_with(move |_| Reply::Raw(bytes.clone()))
    };
    let huge = format!(
        "HTTP/1.1 201 Created\r\nconnection: close\r\n\r\n{}",
        " ".repeat(1024 * 1024 + 1)
    );
    let all = [
        raw(""),
        raw("\x1b[2J\r\n\r\n"),
        raw("HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{\"id\""),
        raw("HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n\x1b{"),
        raw(&huge),
        start_with(|_| Reply::Json(200, json!("a lease"))),
        start_with(|_| Reply::Html(200)),
        start_with(|_| Reply::Html(302)),
        start_with(|_| Reply::Html(403)),
        start_with(|_| Reply::Html(502)),
    ];
    assert_snapshot!(all.concat());
}

#[test]
fn a_server_that_says_nothing_is_left() {
    let server = Fake::on("POST", |_| Reply::Hang);
    let sandbox = Sandbox::new(&server);
    assert_snapshot!(sandbox.show(&mut sandbox.program("--wait 1s --timeout 100ms")));
    server.wait_for_abandoned("POST");
    assert!(sandbox.is_clean());
}

#[test]
fn a_question_that_is_not_answered_is_left_as_well() {
    let server = Fake::on("GET", |_| Reply::Hang);
    let sandbox = Sandbox::new(&server);
    let shown = sandbox.show(&mut sandbox.program("list --timeout 100ms"));
    assert_snapshot!(shown);
}

#[test]
fn problems_are_told_with_what_to_do() {
    let all = [
        problem(401, "unauthorized", "the token is not good here"),
        problem(503, "no_capacity", "no machine became ready within 1 s"),
        problem(503, "not_ready", "the image is being built"),
        problem(422, "unknown_engine", "no image offers the engine `99`"),
        problem(
            422,
            "unknown_size",
            "there is no size `huge`; there are: small",
        ),
        problem(
            422,
            "invalid_ttl",
            "`ttl_s` is 0; allowed are 1 to 86400 seconds",
        ),
        problem(
            422,
            "invalid_wait",
            "`wait_s` is 999; allowed are 0 to 600 seconds",
        ),
        problem(
            422,
            "invalid_keepalive",
            "`keepalive_s` is 1; allowed are 5 to 3600 seconds",
        ),
        problem(
            422,
            "egress_not_offered",
            "`egress` is `open`, which this server does not offer; it offers: internet, none",
        ),
        problem(
            422,
            "invalid_idle",
            "`idle_s` is 1; allowed are 10 to 86400 seconds",
        ),
        problem(
            422,
            "invalid_labels",
            "`labels` are refused: there are 17, at most 16",
        ),
        problem(
            422,
            "invalid_csr",
            "`client_csr_pem` is refused: its key is weak",
        ),
        problem(
            422,
            "idempotency_conflict",
            "another request was made with this key before",
        ),
        problem(400, "invalid_body", "unknown field `idle_s`"),
        problem(404, "not_found", "there is no such path"),
        problem(503, "start_failed", "one machine after the other failed"),
        problem(500, "internal", ""),
        problem(418, "teapot_of_2031", "short\nand \u{1b}[31mstout\u{202e}"),
    ]
    .map(|mut problem| {
        problem["hint"] = json!("do this\u{9b}");
        start_with(move |_| Reply::Problem(problem.clone()))
    });
    assert_snapshot!(all.concat());
}

#[test]
fn a_server_that_is_not_there_is_told() {
    // Bound and dropped, so that nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let sandbox = Sandbox::at(&url);
    assert_snapshot!(sandbox.show(&mut sandbox.program("list")));
}

#[test]
fn an_answer_about_another_lease_is_refused() {
    let server = Fake::on("GET", |_| {
        Reply::Json(
            200,
            json!({
                "id": "l-0000000000009", "state": "ended", "engine": "28", "size": "small",
                "ttl_s": 1, "created_at": "2026-01-31T11:59:59Z",
            }),
        )
    });
    let sandbox = Sandbox::new(&server);
    assert_snapshot!(sandbox.show(&mut sandbox.program(&format!("stop {LEASE} --wait"))));
}

#[test]
fn an_answer_without_an_end_is_left() {
    let now_and_then = Duration::from_millis(20);
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let body = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n[";
    let mut all = Vec::new();
    for (first, again, pause) in [
        (body, " ", now_and_then),
        (head, "x: y\r\n", now_and_then),
        ("", "HTTP/1.1 100 Continue\r\n\r\n", now_and_then),
        (body, "                                ", Duration::ZERO),
        (head, "x: yyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n", Duration::ZERO),
    ] {
        let server = Fake::on("GET", move |_| Reply::Endless(first, again, pause));
        let sandbox = Sandbox::new(&server);
        // The last two need no patience: they are too much.
        let patience = if pause.is_zero() { "60s" } else { "400ms" };
        let mut command = sandbox.program(&format!("list --timeout {patience}"));
        all.push(sandbox.show(&mut command));
        server.wait_for_abandoned("GET");
    }
    let shown = all.join("");
    assert!(!shown.contains("60s"), "{shown}");
    assert_snapshot!(shown);

    // `run` asks and waits, and nothing stays of that either.
    let server = Fake::on("POST", move |_| Reply::Endless(body, " ", now_and_then));
    let sandbox = Sandbox::new(&server);
    let mut command = sandbox.program("run --wait 1s --timeout 100ms touch started");
    assert_snapshot!("endless_run", sandbox.show(&mut command));
    server.wait_for_abandoned("POST");
    assert!(!sandbox.path("started").exists() && sandbox.is_clean());
}

/// Whoever is named there would get the token.
#[test]
fn no_redirect_is_followed() {
    let elsewhere = Fake::start();
    let mut all = String::new();
    for (method, args) in [
        ("GET", "list".to_owned()),
        ("POST", "start".to_owned()),
        ("DELETE", format!("stop {LEASE}")),
    ] {
        let answer = format!(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: {}/v1/leases\r\ncontent-length: 0\r\n\
             connection: close\r\n\r\n",
            elsewhere.url
        );
        let server = Fake::on(method, move |_| Reply::Raw(answer.clone().into_bytes()));
        let sandbox = Sandbox::new(&server);
        all += &sandbox.show(&mut sandbox.program(&args));
    }
    assert!(elsewhere.calls().is_empty());
    assert_snapshot!(all);
}

/// An id is part of paths: of the server's, and of this machine's.
#[test]
fn an_id_that_is_a_path_is_none() {
    for id in [
        "../../../etc",
        "l-000000000000/",
        "l-..\\..\\evil",
        "",
        "l-0000000000001\n",
    ] {
        let (shown, calls) = start_and_calls(move |request| {
            let mut lease = lease(request);
            lease["id"] = json!(id);
            Reply::Json(201, lease)
        });
        assert!(shown.starts_with("exit status: 76\n"), "{shown}");
        assert_eq!(calls, ["POST /v1/leases"]);
    }
    let mut all = String::new();
    for args in [
        "stop ../../x",
        "show l-000000000000/",
        "ssh --lease ../x true",
    ] {
        let sandbox = Sandbox::at("http://127.0.0.1:9");
        let shown = sandbox.show(&mut sandbox.program(args));
        assert!(shown.starts_with("exit status: 2\n"), "{shown}");
        let mut command = sandbox.program(args.split_once(' ').unwrap().0);
        command.env("REMOTE_DOCKER_LEASE", "../../x");
        all += &sandbox.show(&mut command);
    }
    assert_snapshot!(all);
}

/// Sums and products of what the server says must not overflow, nor make the program ask without end.
#[test]
fn numbers_beyond_all_measure_do_no_harm() {
    let most = u64::MAX;
    let lives = json!({
        "ttl_s": most, "keepalive_s": most, "idle_s": most,
        "ready_at": "0001-01-01T00:00:00Z", "expires_at": "9999-12-31T23:59:59Z",
        "timings": [{ "step": "a", "duration_ms": most }, { "step": "b", "duration_ms": most }],
    });
    let dies = json!({
        "ttl_s": 0, "keepalive_s": 0, "idle_s": 0,
        "ready_at": "9999-12-31T23:59:59Z", "expires_at": "0001-01-01T00:00:00Z",
    });
    for changes in [lives, dies] {
        let answer = changes.clone();
        let server = Fake::on("POST", move |request| {
            if request.path.ends_with("/heartbeat") {
                return Reply::Json(200, json!({}));
            }
            let mut lease = lease(request);
            for (name, value) in answer.as_object().unwrap() {
                lease[name] = value.clone();
            }
            Reply::Json(201, lease)
        });
        let sandbox = Sandbox::new(&server);
        let started = Instant::now();
        let mut command = sandbox.program("run -- sh -c");
        let output = command.arg("sleep 1; exit 3").output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let calls = server.calls();
        let beats = calls.iter().filter(|call| call.ends_with("/heartbeat"));
        // Four a second at most.
        let most = started.elapsed().as_millis() / 250;
        assert!(beats.count() as u128 <= most, "{calls:?}");
        server.assert_given_back(&sandbox);
    }
    let server = Fake::on("GET", move |_| {
        Reply::Json(
            200,
            json!({
                "id": LEASE, "state": "waiting", "engine": "28", "size": "small", "ttl_s": most,
                "created_at": "0001-01-01T00:00:00+23:59",
                "queue": { "position": u32::MAX, "doing": "queued", "estimated_wait_s": most },
                "timings": [{ "step": "a", "duration_ms": most }],
            }),
        )
    });
    let sandbox = Sandbox::new(&server);
    assert_snapshot!(sandbox.show(&mut sandbox.program(&format!("show {LEASE}"))));
}
