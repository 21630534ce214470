//! `run` gives the machine back however its command ends.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use e2e::process::{said, text};
use e2e::{Cli, TestServer, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use remote_docker_api::{EndReason, LeaseState};

/// Nothing is left: on this side, in the list, or on the host.
fn assert_given_back(server: &TestServer, cli: &Cli) {
    assert_eq!(cli.files(), Vec::<PathBuf>::new());
    // The lease may still be ending; it is no longer held.
    until(
        "no lease is left",
        Duration::from_secs(60),
        || server.api().list(),
        Vec::is_empty,
    );
    server.wait_clean();
}

fn run_to_the_end(command: &[&str], code: i32) -> String {
    let server = TestServer::start();
    let cli = server.cli();
    let output = cli.command(["run", "--"]).args(command).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    assert_given_back(&server, &cli);
    text(&output.stdout)
}

#[test]
fn a_command_that_succeeds() {
    let script = "test -r \"$DOCKER_CERT_PATH/key.pem\" && echo $DOCKER_HOST $DOCKER_TLS_VERIFY";
    let out = run_to_the_end(&["sh", "-c", script], 0);
    assert!(
        out.starts_with("tcp://127.0.0.1:") && out.ends_with(" 1"),
        "{out}"
    );
}

#[test]
fn a_command_that_uses_docker() {
    let server = TestServer::start();
    let cli = server.cli();
    let docker = server.setting().docker();
    let output = cli
        .command(["run", "--"])
        .arg(docker)
        .args(["version", "--format", "{{.Server.Os}}"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(text(&output.stdout), "linux");
    assert_given_back(&server, &cli);
}

#[test]
fn a_command_that_fails() {
    run_to_the_end(&["sh", "-c", "exit 7"], 7);
}

#[test]
fn a_command_that_a_signal_ends() {
    run_to_the_end(&["sh", "-c", "kill -9 $$"], 128 + 9);
}

#[test]
fn a_command_that_is_not_there() {
    run_to_the_end(&["/nonexistent/program"], 127);
}

#[test]
fn a_command_that_cannot_be_executed() {
    run_to_the_end(&["/etc/passwd"], 126);
}

/// Starts a command that waits, and returns when it runs.
fn start(cli: &Cli, mark: &std::path::Path, options: &[&str]) -> Child {
    let mark_path = mark.display();
    let script =
        format!("echo $$ > '{mark_path}.new'; mv '{mark_path}.new' '{mark_path}'; exec sleep 60");
    let child = cli
        .bare(["run"])
        .args(options)
        .args(["--", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until(
        "the command runs",
        Duration::from_secs(120),
        || mark.exists(),
        |there| *there,
    );
    child
}

fn interrupted(signal: Signal) {
    let server = TestServer::start();
    let cli = server.cli();
    let mut child = start(&cli, &server.root().join("mark"), &[]);
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(128 + signal as i32), "{status:?}");
    assert_given_back(&server, &cli);
}

#[test]
fn interrupted_by_sigint() {
    interrupted(Signal::SIGINT);
}

#[test]
fn interrupted_by_sigterm() {
    interrupted(Signal::SIGTERM);
}

/// It cannot say a word: the server hears nothing any more, which is enough.
#[test]
fn killed_by_sigkill() {
    let server = TestServer::start();
    let cli = server.cli();
    let mark = server.root().join("mark");
    let mut child = start(&cli, &mark, &["--keepalive", "5s"]);
    let leases = server.api().list();
    let [lease] = leases.as_slice() else {
        panic!("not one lease: {leases:?}");
    };
    assert_eq!(server.host().machines().len(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = Instant::now();

    let ended = server.wait_state(lease.id, LeaseState::Ended);
    let took = killed.elapsed();
    assert_eq!(ended.end_reason, Some(EndReason::KeepaliveMissed));
    assert!(took < Duration::from_secs(30), "{took:?}");
    server.wait_clean();
    // Nobody was left to end the command, and it may have work that needs no Docker.
    let command: i32 = std::fs::read_to_string(&mark)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    kill(Pid::from_raw(command), Signal::SIGTERM).unwrap();
}

#[test]
fn interrupted_while_it_waits_for_the_machine() {
    // Boots instead of cloning, so that there is time to interrupt it.
    let server = TestServer::builder()
        .set("hypervisor.templates", false)
        // Nor is the machine kept for others afterwards.
        .set("machines.spare_s", 0)
        .start();
    let cli = server.cli();
    let mark = server.root().join("mark");
    let mut child = cli
        .bare(["run", "--", "touch", mark.to_str().unwrap()])
        .spawn()
        .unwrap();
    until(
        "a machine is being made",
        Duration::from_secs(60),
        || server.host().machines().len(),
        |count| *count == 1,
    );
    kill(
        Pid::from_raw(i32::try_from(child.id()).unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{status:?}");
    assert!(!mark.exists(), "the command was run all the same");
    assert_given_back(&server, &cli);
}

#[test]
fn a_lease_that_is_lost_is_told() {
    let server = TestServer::start();
    let cli = server.cli();
    let mark = server.root().join("mark");
    let script = format!("echo > '{}'; sleep 15; exit 3", mark.display());
    let mut command = cli.command(["run", "--", "sh", "-c", &script]);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    until(
        "the command runs",
        Duration::from_secs(120),
        || mark.exists(),
        |there| *there,
    );
    for pid in server.host().machines() {
        kill(pid, Signal::SIGKILL).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let told = text(&output.stderr).to_lowercase();
    assert!(
        told.contains("machine") && told.contains("lost") || told.contains("died"),
        "{told}"
    );
    assert_given_back(&server, &cli);
}
