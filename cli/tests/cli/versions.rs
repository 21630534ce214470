//! Servers that are older or newer than the program.

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::fake::{Fake, LEASE, Reply, lease, problem};
use crate::run::run;
use crate::sandbox::Sandbox;

fn told(
    method: &'static str,
    answer: impl Fn() -> Reply + Send + Sync + 'static,
    args: &str,
) -> String {
    let server = Fake::on(method, move |_| answer());
    let sandbox = Sandbox::new(&server);
    let mut command = sandbox.program(args);
    format!(
        "$ {args}\n{}",
        sandbox.show(command.env("REMOTE_DOCKER_LEASE", LEASE))
    )
}

/// What the first server of all would say about a lease: nothing that came later.
fn of_the_past(id: &str) -> Value {
    json!({
        "id": id, "state": "active", "engine": "26", "size": "small", "ttl_s": 3600,
        "created_at": "2026-01-31T11:59:58Z",
    })
}

/// Words for everything, and members, that this program has never heard of.
fn of_the_future(id: &str, state: &str) -> Value {
    let strange = json!({ "of": ["a", "later", "version"] });
    json!({
        "id": id, "state": state, "engine": "40", "size": "small", "ttl_s": 3600,
        "created_at": "2026-01-31T11:59:58Z", "expires_at": "2026-01-31T13:00:00Z", "strange": strange,
        "queue": { "position": 2, "doing": "dreaming", "strange": strange },
        "end_reason": "reason_of_2031", "end_detail": "words of 2031",
        "docker": { "host": "tcp://127.0.0.1:23760", "ca_pem": "", "cert_pem": "", "strange": strange },
        "ssh": { "user": "root", "host_key": "k", "alpn": "a", "strange": strange },
        "timings": [{ "step": "dream", "duration_ms": 5, "strange": strange }],
    })
}

#[test]
fn what_a_newer_server_says_beyond_is_no_fault() {
    let list = || {
        let states = ["active", "waiting", "suspended", "ended"];
        let leases = states.iter().enumerate();
        let leases: Vec<_> = leases
            .map(|(at, state)| of_the_future(&format!("l-000000000000{at}"), state))
            .collect();
        Reply::Json(200, json!({ "leases": leases, "next_page": "x" }))
    };
    let mut all = told("GET", list, "list");
    for state in ["active", "waiting", "suspended", "ended"] {
        all += &told(
            "GET",
            move || Reply::Json(200, of_the_future(LEASE, state)),
            "show",
        );
    }
    let logs = || Reply::Json(200, json!({ "console": "c", "docker": "d", "kernel": "k" }));
    all += &told("GET", logs, "logs");
    let answer = || Reply::Json(202, of_the_future(LEASE, "active"));
    all += &told("POST", answer, "extend 30m");
    assert_snapshot!(all);
}

/// A state that nobody knows is not the one of a machine that can be used.
#[test]
fn a_lease_in_a_state_that_nobody_knows_is_given_back() {
    let server = Fake::on("POST", |request| {
        let mut lease = lease(request);
        lease["state"] = json!("suspended");
        Reply::Json(201, lease)
    });
    let sandbox = Sandbox::new(&server);
    assert_snapshot!(sandbox.show(&mut run(&sandbox, "-q", "touch started")));
    server.assert_given_back(&sandbox);
    assert!(!sandbox.path("started").exists());
}

/// The kind of the refusal is not known, but what people and scripts need is there all the same: the words,
/// and an exit code by the status.
#[test]
fn a_refusal_for_a_reason_of_the_future_is_told_in_the_servers_words() {
    let mut all = String::new();
    for status in [401, 403, 409, 422, 429, 500, 503, 507] {
        let answer = move || {
            let mut problem = problem(status, "quota_of_2031", "the moon is full");
            problem["hint"] = json!("wait for the new moon");
            problem["strange"] = json!({});
            Reply::Problem(problem)
        };
        all += &told("POST", answer, "start -q");
    }
    assert_snapshot!(all);
}

#[test]
fn what_an_older_server_leaves_out_is_done_without() {
    let mut all = told("GET", || Reply::Json(200, of_the_past(LEASE)), "show");
    all += &told(
        "GET",
        || Reply::Json(200, json!({ "leases": [of_the_past(LEASE)] })),
        "list",
    );
    // Without a hint, a request id, a type.
    let short = || {
        Reply::Problem(json!({
            "type": "", "title": "Not found", "status": 404, "detail": "there is no such path",
            "code": "not_found",
        }))
    };
    all += &told("GET", short, "logs");
    all += &told("POST", short, "extend 30m");
    all += &told("POST", short, "stop --keep-for 10m");
    // An option that it does not know.
    let unknown = || Reply::Problem(problem(400, "invalid_body", "unknown field `idle_s`"));
    all += &told("POST", unknown, "start -q --idle 10m");
    // A problem that is none by today's rules.
    let bare = || Reply::Problem(json!({ "status": 422, "message": "no" }));
    all += &told("POST", bare, "start -q");
    assert_snapshot!(all);
}

/// The first version had no heartbeats, no SSH, no words about stock.
#[test]
fn a_machine_of_an_older_server_can_be_used() {
    let server = Fake::on("POST", |request| {
        let mut lease = lease(request);
        let members = lease.as_object_mut().unwrap();
        for name in ["warm", "keepalive_s", "idle_s", "something_new", "ready_at"] {
            members.remove(name);
        }
        Reply::Json(200, lease)
    });
    let sandbox = Sandbox::new(&server);
    let output = run(&sandbox, "-q", "test -r \"$DOCKER_CERT_PATH/key.pem\"").output();
    let output = output.unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    server.assert_given_back(&sandbox);
}
