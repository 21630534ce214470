//! `run`: how the lease is kept while the command goes on, wherever that is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use insta::assert_snapshot;
use serde_json::json;

use crate::fake::{Fake, LEASE, Reply, Request, lease, problem};
use crate::run::run;
use crate::sandbox::Sandbox;

fn is_heartbeat(request: &Request) -> bool {
    request.path == format!("/v1/leases/{LEASE}/heartbeat")
}

#[test]
fn heartbeats_go_on_as_long_as_the_command_and_no_longer() {
    let tries = AtomicUsize::new(0);
    let server = Fake::on("POST", move |request| {
        if !is_heartbeat(request) {
            return Reply::Json(201, lease(request));
        }
        // One that fails for the moment is made up for.
        match tries.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::Problem(problem(503, "not_ready", "it restarts")),
            1 => Reply::Raw(Vec::new()),
            _ => Reply::Json(200, json!({})),
        }
    });
    let sandbox = Sandbox::new(&server);
    let mut running = sandbox.start(&mut run(&sandbox, "-q --keepalive 1s", "cat; exit 4"));
    server.wait_for_heartbeats(5);
    running.close_stdin();
    assert_eq!(running.finish().status.code(), Some(4));
    assert_eq!(server.requests()[0].body["keepalive_s"], 1);
    server.assert_given_back(&sandbox);
    assert!(server.calls().last().unwrap().starts_with("DELETE"));
}

#[test]
fn without_another_word_a_minute_is_asked_for_and_a_server_that_wants_none_gets_none() {
    let server = Fake::on("POST", |request| {
        assert!(!is_heartbeat(request));
        let mut lease = lease(request);
        lease.as_object_mut().unwrap().remove("keepalive_s");
        Reply::Json(201, lease)
    });
    let sandbox = Sandbox::new(&server);
    let output = run(&sandbox, "-q", "sleep 0.5").output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    assert_eq!(server.requests()[0].body["keepalive_s"], 60);
    assert!(!server.requests().iter().any(is_heartbeat));
}

#[test]
fn heartbeats_that_are_refused_stop_and_the_reason_is_told_once() {
    let server = Fake::with(vec![
        (
            "POST",
            Box::new(|request| {
                if is_heartbeat(request) {
                    Reply::Problem(problem(409, "lease_ended", "the lease is over"))
                } else {
                    Reply::Json(201, lease(request))
                }
            }),
        ),
        (
            "GET",
            Box::new(|_| {
                // Behind the first heartbeat.
                std::thread::sleep(std::time::Duration::from_secs(1));
                Reply::Json(
                    200,
                    json!({
                        "id": LEASE, "state": "ended", "engine": "28", "size": "small",
                        "ttl_s": 3600, "created_at": "2026-01-31T11:59:59Z",
                        "end_reason": "keepalive_missed",
                    }),
                )
            }),
        ),
    ]);
    let sandbox = Sandbox::new(&server);
    let mut running = sandbox.start(&mut run(&sandbox, "-q --keepalive 1s", "cat; exit 5"));
    assert_snapshot!(running.expect_stderr("is over"));
    running.close_stdin();
    let output = running.finish();
    assert_eq!(output.status.code(), Some(5));
    assert!(output.stderr.is_empty(), "{output:?}");
    let beats = server
        .requests()
        .iter()
        .filter(|one| is_heartbeat(one))
        .count();
    assert_eq!(beats, 1);
}

/// Half of the time that the server does without heartbeats: 30 s of the minute that is usual.
#[test]
fn a_network_that_is_away_for_half_of_the_time_costs_no_lease() {
    const AWAY: Duration = Duration::from_secs(4);
    let arrived: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let (beats, all) = (Arc::clone(&arrived), Arc::clone(&arrived));
    // What is sent goes nowhere from the first heartbeat on.
    let is_away = move || {
        let beats = arrived.lock().unwrap();
        beats.first().is_some_and(|first| first.elapsed() < AWAY)
    };
    let away = is_away.clone();
    let server = Fake::with(vec![
        (
            "POST",
            Box::new(move |request: &Request| {
                if !is_heartbeat(request) {
                    return Reply::Json(201, lease(request));
                }
                if is_away() {
                    return Reply::Hang;
                }
                beats.lock().unwrap().push(Instant::now());
                Reply::Json(200, json!({}))
            }),
        ),
        (
            "GET",
            Box::new(move |_| {
                if away() {
                    Reply::Hang
                } else {
                    Reply::Html(502)
                }
            }),
        ),
    ]);
    let sandbox = Sandbox::new(&server);
    let mut running = sandbox.start(&mut run(&sandbox, "--keepalive 8s", "cat; exit 5"));
    let warned = running.expect_stderr("no heartbeat");
    assert!(warned.contains("given up after 8 s"), "{warned}");
    running.expect_stderr("heartbeats get through again");
    let all = all.lock().unwrap().clone();
    let gap = all[1] - all[0];
    assert!(gap > AWAY && gap < Duration::from_secs(8), "{gap:?}");
    running.close_stdin();
    assert_eq!(running.finish().status.code(), Some(5));
    server.assert_given_back(&sandbox);
}

#[test]
fn heartbeats_that_the_server_will_not_take_are_told() {
    let server = Fake::on("POST", |request| {
        if is_heartbeat(request) {
            Reply::Problem(problem(401, "unauthorized", "the token is not good here"))
        } else {
            Reply::Json(201, lease(request))
        }
    });
    let sandbox = Sandbox::new(&server);
    let mut running = sandbox.start(&mut run(&sandbox, "-q --keepalive 1s", "cat"));
    assert_snapshot!(running.expect_stderr("heartbeats"));
    running.close_stdin();
    assert!(running.finish().status.success());
}

/// As in a container: another user than root, no home that can be written to, no runtime folder, no terminal.
#[test]
fn a_place_where_nothing_is_at_hand_will_do() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    let program = sandbox.path("setup-remote-docker");
    fs::copy(env!("CARGO_BIN_EXE_setup-remote-docker"), &program).unwrap();
    let open = |name: &str, mode| {
        fs::set_permissions(sandbox.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    open("", 0o711);
    open("tmp", 0o1777);
    let mut command = if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg("setsid");
        command
    } else {
        Command::new("setsid")
    };
    let script =
        "id -u; ls \"$DOCKER_CERT_PATH\"; (: </dev/tty) 2>/dev/null || echo no terminal; exit 7";
    command.arg("--wait").arg(&program);
    command.args(["run", "--", "sh", "-c", script]);
    sandbox.hermetic(&mut command);
    command
        .env("HOME", "/proc")
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("TERM");
    let shown = sandbox.show(&mut command);
    let user = if nix::unistd::geteuid().is_root() {
        65534
    } else {
        nix::unistd::geteuid().as_raw()
    };
    assert_snapshot!(shown.replace(&format!("{user}\n"), "[UID]\n"));
    let keys = sandbox.path(&format!("tmp/setup-remote-docker-{user}"));
    assert_eq!(fs::read_dir(keys).unwrap().count(), 0);
}
