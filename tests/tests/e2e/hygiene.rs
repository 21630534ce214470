//! What a machine runs out of is told to whoever uses it, and its clock stays right.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use e2e::{Docker, TestServer, until};
use remote_docker_api::LeaseEvent;

/// Some rounds of questions to the guest.
const LIMIT: Duration = Duration::from_secs(120);

/// A command that uses a machine for as long as its standard input is open, and a docker CLI beside it.
fn use_machine(server: &TestServer) -> (Child, Docker) {
    let script = "echo $DOCKER_HOST; echo $DOCKER_CERT_PATH; cat; exit 3";
    let mut child = server
        .cli()
        .bare(["--quiet", "run", "--", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let mut line = || lines.next().expect("the command runs").unwrap();
    let (host, certificates) = (line(), line());
    let docker = server.docker().at(&host, Path::new(&certificates));
    (child, docker)
}

/// Waits until its holder was told something that has these words in it.
fn told(server: &TestServer, words: &str) {
    let warnings = || -> Vec<LeaseEvent> {
        let leases = server.api().list();
        let [lease] = leases.as_slice() else {
            panic!("not one lease: {leases:?}");
        };
        server.api().show(lease.id, 0).unwrap().warnings
    };
    until(words, LIMIT, warnings, |warnings| {
        let mut details = warnings.iter().filter_map(|it| it.detail.as_deref());
        details.any(|detail| detail.contains(words))
    });
}

/// Seconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "a machine's clock is compared with the host's"
)]
fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

/// How many seconds the machine's clock is off for certain.
fn off(docker: &Docker) -> i64 {
    let before = now();
    let guest = docker.busybox(&[], ["date", "+%s"]);
    let after = now();
    let guest: i64 = guest.trim().parse().unwrap();
    (before - guest).max(guest - after).max(0)
}

#[test]
fn a_machine_tells_what_it_runs_out_of_and_its_clock_is_kept_right() {
    let server = TestServer::start();
    let (mut child, docker) = use_machine(&server);
    docker.import_busybox();

    let wrong = format!("@{}", now() + 3600);
    docker.busybox(&["--cap-add=SYS_TIME"], ["date", "-u", "-s", &wrong]);

    // Enough for what starts it, which has to fit in as well.
    let mut hog = docker.command(["run", "--name=hog", "--network=none"]);
    hog.args(["--memory=64m", "--memory-swap=64m", "busybox"]);
    let status = hog.args(["tail", "/dev/zero"]).status().unwrap();
    assert_eq!(status.code(), Some(137), "it is killed");
    let killed = "in container \"hog\" was killed: out of memory (limit 64 MiB)";
    told(&server, killed);

    until(
        "the clock is right",
        LIMIT,
        || off(&docker),
        |off| *off <= 1,
    );
    let log = server.log();
    assert!(log.contains("is off and is moved by -3"), "{log}");

    // It takes room without writing anything.
    let fill = |file: &str, but_for: &str| {
        let script = format!(
            "left=$(( $(stat -f -c %a /d) * $(stat -f -c %S /d) )); \
             fallocate -l $(( left - {but_for} )) /d/{file}"
        );
        docker.busybox(&["-v=/var/lib/docker:/d"], ["sh", "-c", &script]);
    };
    fill("much", "left / 20");
    told(&server, "% full");
    fill("all", "8000000");
    told(&server, "the machine's disk is full");

    drop(child.stdin.take());
    let mut said = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    // Of a command that fails, all that is known is told before it is over.
    assert_eq!(child.wait().unwrap().code(), Some(3), "{said}");
    for words in [killed, "% full", "disk is full"] {
        let line = said.lines().find(|line| line.contains(words));
        assert!(
            line.is_some_and(|line| line.starts_with("warning: ")),
            "{words}: {said}"
        );
    }
    server.wait_clean();
}
