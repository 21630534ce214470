//! `run` and signals: each reaches the command exactly once, and the lease goes back after it.

use nix::sys::signal::Signal;

use crate::fake::{Fake, Reply};
use crate::sandbox::Sandbox;
use crate::terminal::Terminal;

/// Says `ready`, then `got NAME` for each signal; TERM ends it with 9, nothing at all after 30 s.
const LISTENER: &str = "\
    for s in INT HUP QUIT USR1; do trap \"echo got $s\" $s; done
    trap 'echo got TERM; exit 9' TERM
    echo ready
    i=0; while [ $i -lt 600 ]; do sleep 0.05; i=$((i+1)); done";

#[test]
fn signals_are_passed_on_and_the_command_decides() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    let mut running = sandbox.start(sandbox.program("run -q -- sh -c").arg(LISTENER));
    running.expect_stdout("ready");
    for (signal, line) in [
        (Signal::SIGINT, "got INT"),
        (Signal::SIGHUP, "got HUP"),
        (Signal::SIGQUIT, "got QUIT"),
        (Signal::SIGTERM, "got TERM"),
    ] {
        running.signal(signal);
        running.expect_stdout(line);
    }
    let output = running.finish();
    assert_eq!(output.status.code(), Some(9));
    assert!(output.stdout.is_empty(), "{output:?}");
    server.assert_given_back(&sandbox);
}

#[test]
fn a_command_that_a_signal_ends_is_told_by_the_exit_code() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let server = Fake::start();
        let sandbox = Sandbox::new(&server);
        // `exec` keeps it one process, which has not changed what a signal does to it.
        let text = "echo ready; exec sleep 30";
        let mut running = sandbox.start(sandbox.program("run -q -- sh -c").arg(text));
        running.expect_stdout("ready");
        running.signal(signal);
        assert_eq!(running.finish().status.code(), Some(code));
        server.assert_given_back(&sandbox);
    }
}

#[test]
fn a_signal_while_waiting_frees_the_place_and_starts_nothing() {
    let server = Fake::on("POST", |_| Reply::Hang);
    let sandbox = Sandbox::new(&server);
    let running = sandbox.start(&mut sandbox.program("run -q touch started"));
    server.wait_for_call("POST");
    running.signal(Signal::SIGTERM);
    server.wait_for_abandoned("POST");
    assert_eq!(running.finish().status.code(), Some(143));
    assert!(!sandbox.path("started").exists());
    assert!(sandbox.is_clean());
}

#[test]
fn ctrl_c_reaches_the_command() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    let mut command = sandbox.program("run -q -- sh -c");
    command.arg(LISTENER);
    let mut terminal = Terminal::run(command);
    terminal.read_until("ready");
    terminal.press(b"\x03");
    terminal.read_until("got INT");
    terminal.signal(Signal::SIGTERM);
    terminal.read_until("got TERM");
    assert_eq!(terminal.wait().code(), Some(9));
    server.assert_given_back(&sandbox);
}

#[test]
fn ctrl_c_is_not_passed_on_as_well() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    // In a session of its own the command gets nothing from this terminal, only what is passed on.
    let mut command = sandbox.program("run -q -- setsid sh -c");
    command.arg(LISTENER);
    let mut terminal = Terminal::run(command);
    let mut seen = terminal.read_until("ready");
    terminal.press(b"\x03");
    // The terminal shows it after it has sent the signal. The signals below come later, so the
    // command would have had an interrupt by the time that it tells of them.
    seen += &terminal.read_until("^C");
    terminal.signal(Signal::SIGHUP);
    seen += &terminal.read_until("got HUP");
    terminal.signal(Signal::SIGTERM);
    seen += &terminal.read_until("got TERM");
    assert!(!seen.contains("got INT"), "{seen:?}");
    assert_eq!(terminal.wait().code(), Some(9));
    server.assert_given_back(&sandbox);
}
