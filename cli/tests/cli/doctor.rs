//! `doctor`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::fake::{Fake, LEASE, Reply, Request, problem};
use crate::sandbox::{Sandbox, script};

/// A docker CLI that says these things, alone in a folder.
fn docker(sandbox: &Sandbox, text: &str) -> PathBuf {
    let folder = sandbox.path("docker-bin");
    fs::create_dir_all(&folder).unwrap();
    script(&folder.join("docker"), &format!("#!/bin/sh\n{text}\n"));
    folder
}

const COMPLETE: &str = "\
    test -z \"$DOCKER_HOST$DOCKER_CONTEXT\" || exit 9
    case \"$1\" in
        version) echo 28.2.2 1.50; echo no daemon >&2; exit 1 ;;
        buildx) echo github.com/docker/buildx v0.24.0 ;;
    esac";

fn with_docker(sandbox: &Sandbox, args: &str, text: &str) -> Command {
    let mut command = sandbox.program(args);
    command.env("PATH", docker(sandbox, text));
    command
}

/// Answers with this clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the program compares this with the same clock"
)]
fn dated(status: u16, seconds_ahead: i64, body: &str) -> Reply {
    let at = time::OffsetDateTime::now_utc() + time::Duration::seconds(seconds_ahead);
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let date = at.format(format).unwrap();
    let length = body.len();
    Reply::Raw(
        format!(
            "HTTP/1.1 {status} Whatever\r\ndate: {date}\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n{body}"
        )
        .into_bytes(),
    )
}

fn well(request: &Request) -> Reply {
    match request.path.as_str() {
        "/healthz" | "/readyz" => {
            assert_eq!(
                request.authorization, "",
                "whoever listens there gets no token"
            );
            dated(200, 0, "{}")
        }
        _ => Reply::Json(200, json!({ "leases": [] })),
    }
}

#[test]
fn all_is_well() {
    let server = Fake::on("GET", well);
    let sandbox = Sandbox::new(&server);
    let mut all = sandbox.show(&mut with_docker(&sandbox, "doctor", COMPLETE));
    let mut command = with_docker(&sandbox, "doctor --format json", COMPLETE);
    all += &sandbox.show(command.env("DOCKER_HOST", "tcp://192.0.2.1:1"));
    assert!(sandbox.is_clean());
    assert_snapshot!(all);
}

#[test]
fn a_server_that_is_being_made_ready_is_only_warned_of() {
    let server = Fake::on("GET", |request| match request.path.as_str() {
        "/readyz" => {
            let parts = json!({ "ready": false, "checks": {
                "templates": { "state": "pending", "reason": "being built for 28/small" },
            }});
            dated(503, 0, &parts.to_string())
        }
        _ => well(request),
    });
    let sandbox = Sandbox::new(&server);
    assert_snapshot!(sandbox.show(&mut with_docker(&sandbox, "doctor", COMPLETE)));
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let server = Fake::on("GET", |request| match request.path.as_str() {
        "/healthz" => dated(200, 400, "ok"),
        "/readyz" => {
            let parts: Value = json!({ "ready": false, "checks": {
                "image": { "state": "failed", "reason": "the disk is full" },
                "network": { "state": "ok" },
            }});
            dated(503, 400, &parts.to_string())
        }
        _ => Reply::Problem(problem(401, "unauthorized", "the token is not good here")),
    });
    let sandbox = Sandbox::new(&server);
    let old = "test \"$1\" = version && echo 20.10.5 1.41";
    let mut command = with_docker(&sandbox, "doctor", old);
    command
        .env("HTTPS_PROXY", "http://proxy.example:3128")
        .env("DOCKER_CONTEXT", "desktop")
        .env("DOCKER_API_VERSION", "1.41")
        .env("XDG_RUNTIME_DIR", "")
        .env("TMPDIR", "/proc");
    let shown = sandbox.show(&mut command);
    // The clock moves on while this runs.
    let shown = shown.replace("401 s behind", "400 s behind");
    let shown = shown.replace("399 s behind", "400 s behind");
    let uid = format!("-{}", nix::unistd::geteuid());
    assert_snapshot!(shown.replace(&uid, "-[UID]"));
}

#[test]
fn what_is_not_there_is_told() {
    let nobody = Sandbox::at("http://127.0.0.1:9");
    let mut nothing = nobody.program("doctor");
    nothing
        .env("PATH", nobody.path("nowhere"))
        .env_remove("REMOTE_DOCKER_TOKEN");
    let mut all = nobody.show(&mut nothing);

    let other = Fake::on("GET", |_| Reply::Html(404));
    let sandbox = Sandbox::new(&other);
    all += &sandbox.show(&mut with_docker(&sandbox, "doctor", "exit 3"));
    all += &sandbox.show(&mut with_docker(
        &sandbox,
        "doctor --url nonsense",
        COMPLETE,
    ));
    assert_snapshot!(all);
}

/// What `docker` says of the daemon of this shell's lease.
#[test]
fn a_docker_cli_that_the_engine_does_not_accept_is_told() {
    let mut all = String::new();
    for said in [
        "echo 26.1.5 1.45 1.24",
        "echo Error response from daemon: client version 1.20 is too old. Minimum supported API version is 1.44 >&2; exit 1",
        "echo Error response from daemon: client version 1.99 is too new. Maximum supported API version is 1.45 >&2; exit 1",
        "printf 'Cannot connect to the \\033[2J daemon' >&2; exit 1",
        "exit 1",
    ] {
        let server = Fake::on("GET", well);
        let sandbox = Sandbox::new(&server);
        assert!(sandbox.program("-q").status().unwrap().success());
        let docker = format!(
            "case \"$1 $3\" in
                *Server*) test \"$DOCKER_HOST $DOCKER_TLS_VERIFY $DOCKER_CERT_PATH\" = \
                    \"tcp://127.0.0.1:23760 1 {}/{LEASE}\" || exit 9; {said} ;;
                *) {COMPLETE} ;;
            esac",
            sandbox.leases().display()
        );
        let mut command = with_docker(&sandbox, "doctor", &docker);
        command.env("REMOTE_DOCKER_LEASE", LEASE);
        let shown = sandbox.show(&mut command);
        let (code, _) = shown.split_once('\n').unwrap();
        let daemon = shown.lines().skip_while(|line| !line.contains(" daemon "));
        let lines = daemon.take_while(|line| !line.contains(" proxy "));
        all += &format!("{code}\n{}\n", lines.collect::<Vec<_>>().join("\n"));
    }
    assert_snapshot!(all);
}
