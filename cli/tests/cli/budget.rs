//! What the program takes of a machine: it is started often, and `run` stays for hours.

use std::fs;
use std::process::Command;

use crate::fake::{Fake, Reply};
use crate::sandbox::Sandbox;

const PROGRAM: &str = env!("CARGO_BIN_EXE_setup-remote-docker");

/// No settings are read and nobody is asked: neither a file that is wrong nor one that never ends is in the
/// way. Nor is a lack of descriptors, which an event loop would take, or a socket.
#[test]
fn help_and_version_need_nothing() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    let config = sandbox.path("config/setup-remote-docker/config.toml");
    nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for args in ["--help", "run --help", "--version"] {
        let mut shell = Command::new("sh");
        // The three of every program, and one by which libraries are loaded.
        shell.args(["-c", &format!("ulimit -n 4; exec \"$0\" {args}"), PROGRAM]);
        sandbox.hermetic(&mut shell);
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{args}: {output:?}");
        assert!(
            output.stdout.len() > 10 && output.stderr.is_empty(),
            "{args}"
        );
    }
    assert!(server.calls().is_empty());
    assert!(!sandbox.leases().exists());
}

/// While it waits for a machine, and while its command runs.
#[test]
fn run_takes_little_memory() {
    let server = Fake::on("POST", |_| Reply::Hang);
    let sandbox = Sandbox::new(&server);
    let running = sandbox.start(&mut sandbox.program("run -q true"));
    server.wait_for_call("POST");
    let waiting = peak_kib(running.id());
    running.signal(nix::sys::signal::Signal::SIGTERM);
    running.finish();

    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    let mut running = sandbox.start(&mut sandbox.program("run -q --keepalive 1s cat"));
    server.wait_for_heartbeats(3);
    let running_kib = peak_kib(running.id());
    running.close_stdin();
    assert!(running.finish().status.success());
    let most = waiting.max(running_kib);
    assert!(most <= MOST_KIB, "{waiting} KiB, {running_kib} KiB");
}

/// What was agreed for the program as it is delivered; without optimization it takes some more.
const MOST_KIB: u64 = 15 * 1024;

/// The most memory that a process has had so far.
fn peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}
