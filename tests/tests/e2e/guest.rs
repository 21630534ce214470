//! What the guest's agent does for the machine.

use std::time::Duration;

use e2e::{TestServer, until};

#[test]
fn a_docker_daemon_that_dies_is_started_again_and_reported() {
    let server = TestServer::start();
    let machine = server.lease();
    let docker = machine.docker();
    docker.import_busybox();
    let daemon = || docker.busybox(&["--pid=host", "--privileged"], ["pidof", "dockerd"]);
    let before = daemon();
    // The connection breaks with the daemon, so the command itself may fail.
    let _ = docker
        .command([
            "run",
            "--pid=host",
            "--privileged",
            "busybox",
            "killall",
            "-9",
            "dockerd",
        ])
        .output();
    until(
        "docker answers again",
        Duration::from_secs(90),
        || {
            docker
                .command(["version"])
                .output()
                .unwrap()
                .status
                .success()
        },
        |up| *up,
    );
    assert_ne!(daemon(), before);
    until(
        "the server's log tells of it",
        Duration::from_secs(60),
        || server.log(),
        |log| {
            log.lines()
                .any(|line| line.contains("dockerd") && line.contains("WARN"))
        },
    );
}
