//! Whether the server knows when a machine is in use, and what it says to those who use it.

use std::time::Duration;

use e2e::tree::write_busybox;
use e2e::{Machine, TestServer, until};

/// Some rounds of questions.
const LIMIT: Duration = Duration::from_secs(90);

/// What a guest said about itself.
#[derive(Debug, Default)]
struct Said {
    /// How often it said anything.
    times: usize,
    idle_ms: Option<u64>,
    containers: u64,
    builds: u64,
    took_ms: u64,
}

fn server() -> TestServer {
    TestServer::builder()
        .set("log.filter", "info,remote_dockerd::reconcile::watch=debug")
        .set("machines.watch_every_s", 3)
        .start()
}

/// The last answer in the server's log to the question how a guest is.
fn said(server: &TestServer) -> Said {
    let log = server.log();
    let answers: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("containers_running: "))
        .collect();
    let Some(last) = answers.last() else {
        return Said::default();
    };
    let number = |name: &str| -> Option<u64> {
        let (_, rest) = last.split_once(name)?;
        let digits = rest.trim_start_matches("Some(");
        let end = digits.find(|c: char| !c.is_ascii_digit())?;
        digits[..end].parse().ok()
    };
    Said {
        times: answers.len(),
        idle_ms: number("idle_ms: "),
        containers: number("containers_running: ").unwrap_or_default(),
        builds: number("builds_running: ").unwrap_or_default(),
        took_ms: number("took_ms=").unwrap_or_default(),
    }
}

fn wait(server: &TestServer, what: &str, is: impl Fn(&Said) -> bool) -> Said {
    let before = said(server).times;
    until(
        what,
        LIMIT,
        || said(server),
        |said| said.times > before && is(said),
    )
}

fn console(server: &TestServer) -> String {
    std::fs::read_dir(server.state().join("vms"))
        .unwrap()
        .filter_map(|vm| std::fs::read(vm.unwrap().path().join("console.log")).ok())
        .map(|console| String::from_utf8_lossy(&console).into_owned())
        .collect()
}

fn slow_build(server: &TestServer, machine: &Machine) -> std::process::Child {
    let context = server.root().join("slow");
    write_busybox(&context.join("tree"));
    let dockerfile = "FROM scratch\nCOPY tree /\nRUN [\"/bin/sleep\", \"30\"]\n";
    std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let mut command = machine.docker().command(["build", "--quiet"]);
    command.env("DOCKER_BUILDKIT", "1").arg(context);
    command.spawn().unwrap()
}

#[test]
fn containers_builds_and_traffic_are_seen_and_so_is_their_end() {
    let server = server();
    let machine = server.lease();
    let docker = machine.docker();
    docker.import_busybox();
    let container = docker.ok(["run", "-d", "--network=none", "busybox", "sleep", "1000"]);
    let running = wait(&server, "a container runs", |said| said.containers == 1);
    assert_eq!(running.builds, 0, "{running:?}");
    // Nothing moves while it runs, and that is seen apart from it.
    let longer = wait(&server, "no byte moves", |said| said.idle_ms > Some(5_000));
    assert_eq!(longer.containers, 1, "{longer:?}");

    docker.ok(["rm", "-f", container.trim()]);
    let idle = wait(&server, "no container runs", |said| said.containers == 0);
    assert!(idle.idle_ms < longer.idle_ms, "{idle:?}");
    let longer = wait(&server, "idleness grows", |said| {
        said.idle_ms > idle.idle_ms
    });
    assert_eq!((longer.containers, longer.builds), (0, 0), "{longer:?}");

    let mut build = slow_build(&server, &machine);
    // Whoever waited for the builder would never answer so soon while it lasts.
    wait(&server, "a build is under way, and is soon told", |said| {
        said.builds > 0 && said.took_ms < 2000
    });
    assert!(build.wait().unwrap().success());
    wait(&server, "the build is over", |said| {
        said.builds == 0 && said.containers == 0
    });
}

#[test]
fn who_works_on_the_console_is_told_that_the_time_is_over_soon() {
    let server = TestServer::start();
    let _machine = server.lease_for(60);
    until(
        "the notice is on the console",
        LIMIT,
        || console(&server),
        |console| console.contains("notice: this machine: its time is over in"),
    );
}
