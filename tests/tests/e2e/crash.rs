//! `kill -9` of the server at every step, followed by a restart, ends in the same clean state; leases
//! that were active go on.

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::machine::ClientKey;
use e2e::server::CLEAN_LIMIT;
use e2e::{Api, TestServer, until};
use nix::sys::signal::Signal;
use remote_docker_api::{CreateLease, EndReason, Lease, LeaseState};
use reqwest::Method;

/// Kills the server at the failpoint while it makes a lease and ends it, beside one that is active all
/// the time.
fn killed_at(name: &str) {
    let mut server = TestServer::start();
    let bystander = server.lease();
    server.stop();
    server.spawn(Some(name));
    // Some places are passed only when a lease ends: so make one and end it, as far as the server
    // comes. Nothing here may insist on an answer.
    let api = server.api().clone();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| lead_a_life(&api, &over));
        let status = server.wait_ended(Duration::from_secs(120));
        over.store(true, Ordering::Relaxed);
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status}");
    });

    server.start_again();
    bystander.docker().ok(["version"]);
    let shown = server.api().show(bystander.id(), 0).unwrap();
    assert_eq!(shown.state, LeaseState::Active);
    // The lease that was in the middle ends like any other, wherever it was.
    for lease in server.api().list() {
        if lease.id != bystander.id() {
            server.api().release(lease.id);
            server.wait_state(lease.id, LeaseState::Ended);
        }
    }
    // A machine that was on its way is kept a while for whoever asks next: ask, so that it is used up.
    let settled = || {
        server
            .host()
            .sql("SELECT count(*) FROM vms WHERE state NOT IN ('gone', 'assigned', 'ready')")
    };
    until("nothing is under way", CLEAN_LIMIT, settled, |count| {
        count == "0"
    });
    while server.host().machines().len() > 1 {
        let spare = server.lease();
        spare.docker().ok(["version"]);
        server.api().release(spare.id());
        server.wait_state(spare.id(), LeaseState::Ended);
    }
    bystander.docker().ok(["version"]);
    server.api().release(bystander.id());
    server.wait_clean();
}

/// Makes a lease and gives it back when it is active, as far as the server answers. The server will die
/// on the way, so no answer is insisted on.
fn lead_a_life(api: &Api, over: &AtomicBool) {
    let mut request = ClientKey::generate().request();
    request.wait_s = Some(0);
    let ask = |method: Method, path: &str, body: &CreateLease| -> Option<Lease> {
        while !over.load(Ordering::Relaxed) {
            let asked = api.request(method.clone(), path);
            let asked = if method == Method::POST {
                asked.json(body)
            } else {
                asked
            };
            if let Ok(answer) = asked.send()
                && answer.status().is_success()
            {
                return answer.json().ok();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    };
    let Some(lease) = ask(Method::POST, "/v1/leases", &request) else {
        return;
    };
    let path = format!("/v1/leases/{}", lease.id);
    while let Some(lease) = ask(Method::GET, &path, &request) {
        if lease.state == LeaseState::Active {
            ask(Method::DELETE, &path, &request);
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

macro_rules! killed_at {
    ($($test:ident: $name:literal,)*) => {
        const TESTED: &[&str] = &[$($name),*];
        $(
            #[test]
            fn $test() {
                killed_at($name);
            }
        )*
    };
}

killed_at! {
    killed_at_lease_inserted: "lease-inserted",
    killed_at_vm_created: "vm-created",
    killed_at_vm_starting: "vm-starting",
    killed_at_vm_started: "vm-started",
    killed_at_vm_activating: "vm-activating",
    killed_at_vm_activated: "vm-activated",
    killed_at_vm_ready: "vm-ready",
    killed_at_port_reserved: "port-reserved",
    killed_at_lease_assigned: "lease-assigned",
    killed_at_lease_ending: "lease-ending",
    killed_at_vm_destroyed: "vm-destroyed",
    killed_at_vm_gone: "vm-gone",
    killed_at_lease_ended: "lease-ended",
}

/// Passed while a template is built, and so with no lease.
const OF_TEMPLATES: &[&str] = &["template-started", "template-written"];

fn killed_while_a_template_is_built(name: &str) {
    let (mut server, _) = TestServer::builder().without_shared_template().prepare();
    server.spawn(Some(name));
    server.wait_ended(Duration::from_secs(200));
    server.start_again();
    let machine = server.lease();
    machine.docker().ok(["version"]);
    server.api().release(machine.id());
    server.wait_clean();
}

#[test]
fn killed_at_template_started() {
    killed_while_a_template_is_built("template-started");
}

#[test]
fn killed_at_template_written() {
    killed_while_a_template_is_built("template-written");
}

#[test]
fn every_failpoint_is_tested() {
    let tested: Vec<_> = TESTED.iter().chain(OF_TEMPLATES).collect();
    for name in remote_dockerd::failpoint::ALL {
        assert!(tested.contains(&name), "no test kills the server at {name}");
    }
    assert_eq!(tested.len(), remote_dockerd::failpoint::ALL.len());
}

#[test]
fn active_leases_survive_a_kill_and_a_restart() {
    let mut server = TestServer::start();
    let (one, other) = (server.lease(), server.lease());
    one.docker().import_busybox();
    one.docker()
        .ok(["run", "-d", "--name", "kept", "busybox", "sleep", "600"]);
    server.kill();
    // Nobody relays now.
    assert!(
        !one.docker()
            .command(["version"])
            .status()
            .unwrap()
            .success()
    );
    server.start_again();
    assert_eq!(one.docker().ok(["ps", "--format", "{{.Names}}"]), "kept");
    other.docker().ok(["version"]);
    // And once more, in good order.
    server.stop();
    server.start_again();
    assert_eq!(one.docker().ok(["ps", "--format", "{{.Names}}"]), "kept");
}

#[test]
fn a_lease_whose_time_is_over_during_an_outage_ends_at_the_restart() {
    let mut server = TestServer::start();
    let machine = server.lease_for(4);
    server.kill();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(server.host().machines().len(), 1);
    server.start_again();
    let ended = server.wait_state(machine.id(), LeaseState::Ended);
    assert_eq!(ended.end_reason, Some(EndReason::Expired));
    server.wait_clean();
}

#[test]
fn a_machine_that_dies_during_an_outage_ends_its_lease_at_the_restart() {
    let mut server = TestServer::start();
    let machine = server.lease();
    server.kill();
    for pid in server.host().machines() {
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
    }
    server.start_again();
    let ended = server.wait_state(machine.id(), LeaseState::Ended);
    assert_eq!(ended.end_reason, Some(EndReason::VmLost));
    server.wait_clean();
}
