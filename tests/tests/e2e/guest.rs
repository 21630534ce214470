//! What the guest's agent does for the machine.

use std::thread;
use std::time::{Duration, Instant};

use e2e::process::Sleeps;
use e2e::{TestServer, until};

/// How long a machine is watched that does nothing, and how often until it has come to rest.
const WATCH: Duration = Duration::from_secs(15);
const WATCHES: usize = 8;
/// How often the threads of its QEMU may wake up in a second, on average: twice what was seen, and less than what it was
/// (97) when the guest's kernel and daemons looked after themselves every second or few.
const WAKE_UPS_PER_S: f64 = 45.0;

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
    // Its kernel knows how to let the processors rest.
    let driver = "/sys/devices/system/cpu/cpuidle/current_driver";
    assert_eq!(docker.busybox(&[], ["cat", driver]), "acpi_idle");
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

#[test]
fn a_machine_that_does_nothing_sleeps() {
    let server = TestServer::start();
    let machine = server.lease();
    machine.docker().ok(["version"]);
    let processes = server.host().machines();
    let [process] = processes.as_slice() else {
        panic!("not one machine: {processes:?}");
    };
    // What follows from a client's last request is over some time after it.
    let mut seen = Vec::new();
    for _ in 0..WATCHES {
        let (begun, before) = (Instant::now(), Sleeps::of(*process));
        thread::sleep(WATCH);
        let woken = Sleeps::of(*process).since(&before);
        // It lives: threads that serve its emulated processors' timers are among them.
        assert!(woken > 0, "the machine does not run");
        let each_second = woken as f64 / begun.elapsed().as_secs_f64();
        seen.push(each_second);
        if each_second <= WAKE_UPS_PER_S {
            return;
        }
    }
    panic!("woken so often each second: {seen:.1?}");
}
