//! `run`: how the command ends, and what becomes of the lease.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use insta::assert_snapshot;
use serde_json::json;

use crate::fake::{Fake, LEASE, Reply, lease, problem};
use crate::sandbox::{Sandbox, script};

/// `run` with a shell script.
pub(crate) fn run(sandbox: &Sandbox, options: &str, text: &str) -> Command {
    let mut command = sandbox.program(&format!("run {options} -- sh -c"));
    command.arg(text);
    command
}

#[test]
fn the_command_gets_the_variables_and_the_lease_goes_back() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    let mut command = run(
        &sandbox,
        "",
        "env | grep -E '^(DOCKER_|REMOTE_DOCKER_LEASE|NO_PROXY)' | sort; ls $DOCKER_CERT_PATH; echo talk >&2",
    );
    command
        .env("DOCKER_CONTEXT", "desktop")
        .env("HTTPS_PROXY", "http://proxy.example:3128");
    assert_snapshot!(sandbox.show(&mut command));
    server.assert_given_back(&sandbox);
}

#[test]
fn the_command_reads_what_is_piped_in() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    let mut child = sandbox
        .program("run -q cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"through");
}

#[test]
fn the_exit_code_is_the_commands_own() {
    for (text, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -KILL $$", 137),
        ("kill -SEGV $$", 139),
    ] {
        let server = Fake::start();
        let sandbox = Sandbox::new(&server);
        let status = run(&sandbox, "-q", text).status().unwrap();
        assert_eq!(status.code(), Some(code), "{text}");
        server.assert_given_back(&sandbox);
    }
}

#[test]
fn a_command_that_cannot_be_started_gives_the_lease_back() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    let missing = sandbox.show(&mut sandbox.program("run -q -- no-such-command --flag"));
    server.assert_given_back(&sandbox);
    assert_snapshot!("run_not_found", missing);

    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    fs::write(sandbox.path("data"), "").unwrap();
    let plain = sandbox.show(&mut sandbox.program("run -q -- ./data"));
    server.assert_given_back(&sandbox);
    assert_snapshot!("run_not_executable", plain);
}

#[test]
fn without_a_lease_the_command_is_not_started() {
    let server = Fake::on("POST", |_| {
        Reply::Problem(problem(503, "no_capacity", "no machine became ready"))
    });
    let sandbox = Sandbox::new(&server);
    let status = run(&sandbox, "-q", "touch started").status().unwrap();
    assert_eq!(status.code(), Some(69));
    assert!(!sandbox.path("started").exists());
}

#[test]
fn a_lease_that_cannot_be_given_back_is_told() {
    let denied = Fake::on("DELETE", |_| {
        Reply::Problem(problem(401, "unauthorized", "the token is not good here"))
    });
    let sandbox = Sandbox::new(&denied);
    let mut command = run(&sandbox, "", "exit 3");
    assert_snapshot!("run_release_denied", sandbox.show(&mut command));

    let silent = Fake::on("DELETE", |_| Reply::Hang);
    let sandbox = Sandbox::new(&silent);
    let mut command = run(&sandbox, "--timeout 300ms", "exit 3");
    assert_snapshot!("run_release_hangs", sandbox.show(&mut command));
}

#[test]
fn a_release_that_fails_for_the_moment_is_tried_again() {
    let tries = AtomicUsize::new(0);
    let server = Fake::on("DELETE", move |_| {
        match tries.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::Problem(problem(503, "not_ready", "it starts")),
            1 => Reply::Raw(Vec::new()),
            _ => Reply::Raw(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        }
    });
    let sandbox = Sandbox::new(&server);
    let output = run(&sandbox, "-q", "exit 3").output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stderr.is_empty(), "{output:?}");
    let tries = server.calls();
    let tries = tries.iter().filter(|call| call.starts_with("DELETE"));
    assert_eq!(tries.count(), 3);
}

#[test]
fn the_loss_of_the_lease_is_told_while_the_command_goes_on() {
    let over = |reason: &'static str| {
        Fake::on("GET", move |_| {
            Reply::Json(
                200,
                json!({
                    "id": LEASE, "state": "ending", "engine": "28", "size": "small",
                    "ttl_s": 3600, "created_at": "2026-01-31T11:59:59Z", "end_reason": reason,
                }),
            )
        })
    };
    let forgotten = Fake::on("GET", |_| {
        Reply::Problem(problem(404, "lease_not_found", "there is no such lease"))
    });
    let mut told = String::new();
    for server in [
        over("vm_lost"),
        over("expired"),
        over("a reason of 2031"),
        forgotten,
    ] {
        let sandbox = Sandbox::new(&server);
        let mut running = sandbox.start(&mut run(&sandbox, "-q", "cat; echo done; exit 5"));
        told += &running.expect_stderr("is over");
        running.close_stdin();
        running.expect_stdout("done");
        assert_eq!(running.finish().status.code(), Some(5));
        let polls = server.calls();
        let polls = polls.iter().filter(|call| call.starts_with("GET"));
        assert_eq!(polls.count(), 1, "it is over, so there is nothing to ask");
        server.assert_given_back(&sandbox);
    }
    assert_snapshot!(told);
}

#[test]
fn the_coming_end_is_told() {
    let server = Fake::on("POST", |request| {
        let mut lease = lease(request);
        lease["expires_at"] = json!("2026-01-31T12:00:02Z");
        Reply::Json(201, lease)
    });
    let sandbox = Sandbox::new(&server);
    let mut running = sandbox.start(&mut run(&sandbox, "-q", "cat"));
    assert_snapshot!(running.expect_stderr("expires"));
    running.close_stdin();
    assert_eq!(running.finish().status.code(), Some(0));
}

#[test]
fn a_poll_that_fails_is_no_loss() {
    let server = Fake::on("GET", |_| Reply::Html(502));
    let sandbox = Sandbox::new(&server);
    let mut running = sandbox.start(&mut run(&sandbox, "-q", "cat"));
    server.wait_for_call("GET");
    running.close_stdin();
    let output = running.finish();
    assert!(output.status.success() && output.stderr.is_empty());
}

#[test]
fn a_command_found_in_the_path_runs_with_its_own_options() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    fs::create_dir(sandbox.path("bin")).unwrap();
    script(&sandbox.path("bin/tool"), "#!/bin/sh\necho \"$@\"\n");
    let mut command = sandbox.program("run --ttl 5m tool --ttl 1 -q -- x");
    let path = format!("{}:/usr/bin:/bin", sandbox.path("bin").display());
    let output = command.env("PATH", path).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "--ttl 1 -q -- x\n");
    assert_eq!(server.requests()[0].body["ttl_s"], 300);
}

#[test]
fn an_end_that_was_put_off_is_warned_of_anew() {
    let looks = AtomicUsize::new(0);
    let short = |mut lease: serde_json::Value, end: &str| {
        lease["expires_at"] = json!(end);
        lease
    };
    let server = Fake::with(vec![
        (
            "POST",
            Box::new(move |request| {
                Reply::Json(201, short(lease(request), "2026-01-31T12:00:01Z"))
            }),
        ),
        (
            "GET",
            Box::new(move |_| match looks.fetch_add(1, Ordering::SeqCst) {
                0 => {
                    std::thread::sleep(std::time::Duration::from_secs(1));
                    Reply::Json(
                        200,
                        json!({
                            "id": LEASE, "state": "active", "engine": "28", "size": "small",
                            "ttl_s": 3600, "created_at": "2026-01-31T11:59:59Z",
                            "ready_at": "2026-01-31T12:00:00Z",
                            "expires_at": "2026-01-31T12:00:04Z",
                        }),
                    )
                }
                _ => Reply::Hang,
            }),
        ),
    ]);
    let sandbox = Sandbox::new(&server);
    let mut running = sandbox.start(&mut run(&sandbox, "-q", "cat"));
    assert!(running.expect_stderr("expires").contains("12:00:01"));
    assert!(running.expect_stderr("expires").contains("12:00:04"));
    running.close_stdin();
    let output = running.finish();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
}
