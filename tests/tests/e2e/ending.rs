//! How leases end, and that nothing stays.

use std::path::PathBuf;

use e2e::machine::ClientKey;
use e2e::process::fail;
use e2e::server::CLEAN_LIMIT;
use e2e::{Machine, TestServer, until};
use nix::sys::signal::{Signal, kill};
use remote_docker_api::{EndReason, LeaseState};

fn assert_unreachable(machine: &Machine) {
    let said = fail(&mut machine.docker().command(["version"]));
    assert!(!said.is_empty());
}

#[test]
fn stop_takes_machine_and_keys_away() {
    let server = TestServer::start();
    let cli = server.cli();
    let answer = cli.ok(["start", "--format", "json"]);
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let id = answer["lease_id"].as_str().unwrap();
    let keys = PathBuf::from(answer["docker_cert_path"].as_str().unwrap());
    assert!(keys.join("key.pem").is_file());
    // What has to go is there first.
    let host = server.host();
    assert_eq!(host.machines().len(), 1);
    assert!(!host.wires().is_empty() && !host.files().is_empty());
    assert!(host.listening().contains(&e2e::server::RELAY_PORT));

    cli.ok(["stop", "--wait", id]);
    assert_eq!(cli.files(), Vec::<PathBuf>::new());
    // `--wait` has waited: nothing is still on its way.
    assert_eq!(host.remnants(), Vec::<String>::new());
    assert!(!host.listening().contains(&e2e::server::RELAY_PORT));
    assert!(cli.ok(["list", "--format", "json"]).contains("[]"));
}

#[test]
fn expiry_takes_the_machine_away() {
    let server = TestServer::start();
    let machine = server.lease_for(5);
    machine.docker().ok(["version"]);
    let ended = server.wait_state(machine.id(), LeaseState::Ended);
    assert_eq!(ended.end_reason, Some(EndReason::Expired));
    let (ready, end) = (ended.ready_at.unwrap(), ended.ended_at.unwrap());
    let lasted = (end - ready).as_seconds_f64();
    assert!((5.0..20.0).contains(&lasted), "{lasted}");
    server.wait_clean();
    assert_unreachable(&machine);
}

#[test]
fn what_is_running_does_not_hold_a_lease_up() {
    let server = TestServer::start();
    let machine = server.lease();
    let docker = machine.docker();
    docker.import_busybox();
    let mut logs = docker
        .command(["run", "busybox", "sleep", "600"])
        .spawn()
        .unwrap();
    until(
        "the container runs",
        CLEAN_LIMIT,
        || docker.ok(["ps", "-q"]),
        |ids| !ids.is_empty(),
    );
    server.api().release(machine.id());
    server.wait_state(machine.id(), LeaseState::Ended);
    server.wait_clean();
    // The open connection was cut, and the client noticed.
    assert!(!logs.wait().unwrap().success());
}

#[test]
fn a_machine_that_dies_ends_its_lease() {
    let server = TestServer::start();
    let machine = server.lease();
    for pid in server.host().machines() {
        kill(pid, Signal::SIGKILL).unwrap();
    }
    assert_lost(&server, &machine, "QEMU was killed by SIGKILL");
    server.wait_clean();
}

/// The lease has ended because its machine is lost, and its holder and the log are told what is known.
fn assert_lost(server: &TestServer, machine: &Machine, words: &str) {
    let ended = server.wait_state(machine.id(), LeaseState::Ended);
    assert_eq!(ended.end_reason, Some(EndReason::VmLost));
    let detail = ended.end_detail.unwrap_or_default();
    assert!(detail.contains("does not run any more"), "{detail}");
    assert!(detail.contains(words), "no `{words}` in: {detail}");
    let state = server.state().display().to_string();
    assert!(!detail.contains(&state), "a path of the host: {detail}");
    let log = server.log();
    let warned = |line: &str| line.contains("WARN") && line.contains("does not run any more");
    let line = log.lines().find(|line| warned(line));
    let line = line.unwrap_or_else(|| panic!("no warning in: {log}"));
    assert!(line.contains(words), "no `{words}` in: {line}");
}

#[test]
fn a_guest_that_ends_itself_ends_its_lease() {
    for (key, words) in [
        ("o", "reboot: Power down"),
        ("b", "sysrq: Resetting"),
        ("c", "Kernel panic"),
    ] {
        let server = TestServer::start();
        let machine = server.lease();
        machine.docker().import_busybox();
        // The connection breaks with it, so the command may fail.
        let _ = machine
            .docker()
            .command(["run", "--privileged", "--pid=host", "busybox", "sh", "-c"])
            .arg(format!("echo {key} > /proc/sysrq-trigger; sleep 30"))
            .output();
        assert_lost(&server, &machine, words);
        server.wait_clean();
    }
}

/// A machine that was made for a lease that is over is taken away, and does not wait for the next one.
fn keeps_no_spare() -> TestServer {
    TestServer::builder().set("machines.spare_s", 0).start()
}

#[test]
fn releasing_twice_and_releasing_what_waits() {
    let server = keeps_no_spare();
    let key = ClientKey::generate();
    let mut request = key.request();
    request.wait_s = Some(0);
    let waiting = server.api().create(&request).unwrap();
    server.api().release(waiting.id);
    server.api().release(waiting.id);
    let ended = server.wait_state(waiting.id, LeaseState::Ended);
    assert_eq!(ended.end_reason, Some(EndReason::Released));
    server.wait_clean();
}

/// The client went away while the machine was being made: nobody would ever use or release it.
#[test]
fn a_client_that_goes_away_leaves_no_lease() {
    let server = keeps_no_spare();
    let cli = server.cli();
    let mut child = cli.bare(["start"]).spawn().unwrap();
    until(
        "the lease is asked for",
        CLEAN_LIMIT,
        || server.api().list().len(),
        |count| *count == 1,
    );
    child.kill().unwrap();
    child.wait().unwrap();
    until(
        "the lease is given up",
        CLEAN_LIMIT,
        || server.api().list(),
        Vec::is_empty,
    );
    server.wait_clean();
    // Killed between the answer and its printing, it could leave keys; before that, it has none.
    assert_eq!(cli.files(), Vec::<PathBuf>::new());
}

#[test]
fn a_machine_that_boots_is_as_good_as_a_clone() {
    let server = TestServer::builder()
        .set("hypervisor.templates", false)
        .start();
    let machine = server.lease();
    machine.docker().import_busybox();
    assert_eq!(machine.docker().busybox(&[], ["echo", "up"]), "up");
    let steps: Vec<_> = machine.lease.timings.iter().map(|t| &t.step).collect();
    assert!(!steps.is_empty());
    server.api().release(machine.id());
    server.wait_clean();
}
