//! SIGTERM: what serves nobody goes at once, what serves somebody stays, or is waited for.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::machine::ClientKey;
use e2e::process::succeed;
use e2e::{TestServer, until};
use nix::sys::signal::Signal;
use remote_docker_api::{ErrorCode, LeaseState};

/// Taking away a few machines, on a host that does other things too.
const SOON: Duration = Duration::from_secs(60);

/// Nothing of the server is left on the host but its state folder.
fn assert_nothing_left(server: &TestServer) {
    assert_eq!(server.host().machines(), []);
    assert_eq!(server.host().files(), Vec::<String>::new());
    assert_eq!(server.host().live_rows(), Vec::<String>::new());
    let namespace = server.host().namespace().expect("the server has an id");
    assert!(
        !Path::new("/run/netns").join(&namespace).exists(),
        "{namespace}"
    );
    // Each test has its network namespace for itself: what is in it is the server's.
    let links = succeed(Command::new("ip").args(["-o", "link", "show"]));
    assert!(!links.contains(": ru"), "{links}");
    let filter = succeed(Command::new("nft").args(["list", "ruleset"]));
    assert!(!filter.contains("remote_dockerd"), "{filter}");
}

#[test]
fn told_to_stop_while_the_first_template_is_built() {
    let (mut server, _) = TestServer::builder()
        .without_shared_template()
        .set("network.uplink", "veth")
        .prepare();
    server.spawn(None);
    until(
        "the machine runs that is to become a template",
        Duration::from_secs(60),
        || server.host().machines(),
        |machines| machines.len() == 1,
    );
    server.signal(Signal::SIGTERM);
    let status = server.wait_ended(SOON);
    assert!(status.success(), "{status}");
    assert_nothing_left(&server);
    let built = walk(&server.state().join("templates"));
    assert_eq!(built, Vec::<String>::new());
}

fn walk(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path()),
            _ => vec![entry.path().display().to_string()],
        })
        .collect()
}

#[test]
fn a_spare_machine_goes_and_a_leased_one_stays() {
    let mut server = TestServer::start();
    let kept = server.lease();
    // A client that hangs up while its machine is made leaves it as a spare.
    let mut request = ClientKey::generate().request();
    request.wait_s = Some(0);
    let spare = server.api().create(&request).unwrap();
    until(
        "its machine is on its way",
        Duration::from_secs(60),
        || server.host().machines().len(),
        |count| *count == 2,
    );
    server.api().release(spare.id);
    server.stop();
    assert_eq!(server.host().machines().len(), 1);
    server.start_again();
    kept.docker().ok(["version"]);
}

#[test]
fn a_drained_server_waits_for_its_leases_and_takes_no_more() {
    let mut server = TestServer::builder()
        .set("shutdown.drain_s", 600)
        .set("network.uplink", "veth")
        .start();
    let machine = server.lease();
    server.signal(Signal::SIGTERM);
    until(
        "it says that it is being drained",
        SOON,
        || server.api().ready().err().unwrap_or_default(),
        |said| said.contains("is being drained"),
    );
    let refused = server.api().create(&ClientKey::generate().request());
    let problem = refused.unwrap_err();
    assert_eq!(problem.code, ErrorCode::NotReady, "{problem:?}");
    assert!(problem.detail.contains("drained"), "{problem:?}");
    machine.docker().ok(["version"]);
    server.api().release(machine.id());
    let status = server.wait_ended(SOON);
    assert!(status.success(), "{status}");
    assert_nothing_left(&server);
}

#[test]
fn a_drained_server_ends_what_lasts_too_long() {
    let mut server = TestServer::builder().set("shutdown.drain_s", 2).start();
    let machine = server.lease();
    server.signal(Signal::SIGTERM);
    let status = server.wait_ended(SOON);
    assert!(status.success(), "{status}");
    assert_nothing_left(&server);
    let question = format!(
        "SELECT end_reason FROM leases WHERE id = '{}'",
        machine.id()
    );
    assert_eq!(server.host().sql(&question).trim(), "drained");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut server = TestServer::builder().set("shutdown.drain_s", 600).start();
    let machine = server.lease();
    server.signal(Signal::SIGTERM);
    until(
        "it is told",
        SOON,
        || server.log(),
        |log| log.contains("told to stop"),
    );
    server.signal(Signal::SIGINT);
    let status = server.wait_ended(SOON);
    assert_eq!(status.signal(), Some(Signal::SIGINT as i32), "{status}");
    assert!(server.log().contains("told to stop twice"));
    // As after `kill -9`.
    server.start_again();
    machine.docker().ok(["version"]);
    let shown = server.api().show(machine.id(), 0).unwrap();
    assert_eq!(shown.state, LeaseState::Active);
}
