//! The life of a lease on real machines: what it is told, what ends it, and how quickly.

use std::io::{BufRead, BufReader};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use e2e::machine::ClientKey;
use e2e::{TestServer, until};
use nix::sys::signal::{Signal, kill};
use remote_docker_api::{
    CreateLease, EndReason, EventKind, Lease, LeaseEvent, LeaseId, LeaseLogs, LeaseState,
};
use reqwest::{Method, StatusCode};

/// Enough for a lease of a few seconds to end, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long after its machine died the holder of a lease may be left without news.
const NEWS: Duration = Duration::from_secs(2);
/// How long after that its place may be taken.
const FREE: Duration = Duration::from_secs(5);

/// Follows what happens to a lease; each event with the moment at which it came.
fn follow(server: &TestServer, lease: LeaseId) -> mpsc::Receiver<(Instant, LeaseEvent)> {
    let answer = server
        .api()
        .request(Method::GET, &format!("/v1/leases/{lease}/events"))
        .timeout(PATIENCE)
        .send()
        .expect("the events");
    assert_eq!(answer.status(), StatusCode::OK);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(answer).lines() {
            let Ok(line) = line else { return };
            if let Some(data) = line.strip_prefix("data: ") {
                let event = serde_json::from_str(data).expect("an event");
                if sender.send((Instant::now(), event)).is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

fn post(server: &TestServer, lease: LeaseId, what: &str, body: &str) -> (StatusCode, String) {
    let answer = server
        .api()
        .request(Method::POST, &format!("/v1/leases/{lease}/{what}"))
        .header("content-type", "application/json")
        .body(body.to_owned())
        .send()
        .expect("an answer");
    (answer.status(), answer.text().expect("its body"))
}

fn ask(server: &TestServer, change: impl FnOnce(&mut CreateLease)) -> Lease {
    let mut request = ClientKey::generate().request();
    change(&mut request);
    server.api().create(&request).expect("a lease")
}

#[test]
fn the_holder_of_a_machine_that_dies_learns_it_at_once_and_its_place_is_free() {
    let server = TestServer::start();
    let machine = server.lease();
    let events = follow(&server, machine.id());
    let died = Instant::now();
    for pid in server.host().machines() {
        kill(pid, Signal::SIGKILL).unwrap();
    }
    let mut told = Vec::new();
    while let Ok((when, event)) = events.recv_timeout(PATIENCE) {
        told.push((event.kind, when - died));
    }
    let after = |wanted| {
        let found = told.iter().find(|(kind, _)| *kind == wanted);
        found
            .unwrap_or_else(|| panic!("{wanted:?} not in {told:?}"))
            .1
    };
    assert!(after(EventKind::Ending) < NEWS, "{told:?}");
    assert!(after(EventKind::Ended) < FREE, "{told:?}");
    let ended = server.api().show(machine.id(), 0).unwrap();
    assert_eq!(ended.end_reason, Some(EndReason::VmLost));
    server.wait_clean();
}

#[test]
fn a_lease_is_told_from_the_queue_to_the_end() {
    let server = TestServer::start();
    let lease = ask(&server, |request| request.ttl_s = Some(6));
    let events = follow(&server, lease.id);
    let mut kinds = Vec::new();
    while let Ok((_, event)) = events.recv_timeout(PATIENCE) {
        kinds.push(event.kind);
    }
    use EventKind::{Activating, Cloning, Ended, Ending, Queued, Ready, Warning};
    let expected = [Queued, Cloning, Activating, Ready, Warning, Ending, Ended];
    assert_eq!(kinds, expected);
    server.wait_clean();
}

#[test]
fn a_lease_that_nobody_uses_ends_and_one_that_runs_something_does_not() {
    let server = TestServer::start();
    let key = ClientKey::generate();
    let request = CreateLease {
        idle_s: Some(10),
        ..key.request()
    };
    let lease = server.api().create(&request).expect("a lease");
    let machine = server.hold(lease, &key);
    let docker = machine.docker();
    docker.import_busybox();
    docker.ok(["run", "-d", "--name", "works", "busybox", "sleep", "600"]);
    // Nobody talks to it now, for longer than it may be idle.
    thread::sleep(Duration::from_secs(25));
    let lease = server.api().show(machine.id(), 0).unwrap();
    assert_eq!(lease.state, LeaseState::Active);
    docker.ok(["kill", "works"]);
    let ended = until(
        "the lease ends",
        PATIENCE,
        || server.api().show(machine.id(), 0).unwrap(),
        |lease| lease.state == LeaseState::Ended,
    );
    assert_eq!(ended.end_reason, Some(EndReason::Idle));
    server.wait_clean();
}

#[test]
fn heartbeats_keep_a_lease_across_a_restart_and_silence_ends_it() {
    let mut server = TestServer::start();
    let lease = ask(&server, |request| request.keepalive_s = Some(10));
    server.kill();
    // Longer than it may be silent: nobody could have heard it.
    thread::sleep(Duration::from_secs(12));
    server.start_again();
    let (status, text) = post(&server, lease.id, "heartbeat", "");
    assert_eq!(status, StatusCode::OK, "{text}");
    let (status, text) = post(&server, lease.id, "extend", r#"{"remaining_s": 900}"#);
    assert_eq!(status, StatusCode::OK, "{text}");
    let ended = server.wait_state(lease.id, LeaseState::Ended);
    assert_eq!(ended.end_reason, Some(EndReason::KeepaliveMissed));
    let (status, text) = post(&server, lease.id, "heartbeat", "");
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(text.contains("lease_ended"), "{text}");
    server.wait_clean();
}

#[test]
fn the_same_request_twice_makes_one_machine_also_across_a_restart() {
    let mut server = TestServer::start();
    let body = ClientKey::generate().request();
    let create = |server: &TestServer, body: &CreateLease| {
        let answer = server
            .api()
            .request(Method::POST, "/v1/leases")
            .header("idempotency-key", "build-17")
            .timeout(PATIENCE * 3)
            .json(body)
            .send()
            .expect("an answer");
        (answer.status(), answer.text().expect("its body"))
    };
    let (status, first) = create(&server, &body);
    assert_eq!(status, StatusCode::CREATED, "{first}");
    server.kill();
    server.start_again();
    let (status, again) = create(&server, &body);
    assert_eq!(status, StatusCode::OK, "{again}");
    let id = |text: &str| serde_json::from_str::<Lease>(text).expect("a lease").id;
    assert_eq!(id(&first), id(&again));
    assert_eq!(server.host().machines().len(), 1);
    let (status, text) = create(&server, &ClientKey::generate().request());
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
    assert!(text.contains("idempotency_conflict"), "{text}");
}

#[test]
fn the_logs_of_a_lease_are_those_of_its_machine() {
    let server = TestServer::start();
    let machine = server.lease();
    let answer = server
        .api()
        .request(Method::GET, &format!("/v1/leases/{}/logs", machine.id()))
        .send()
        .expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let logs: LeaseLogs = answer.json().expect("the logs");
    assert!(logs.console.contains("[agent"), "{logs:?}");
    assert!(logs.docker.contains("API listen on"), "{logs:?}");
    // Nothing of the host.
    assert!(!logs.console.contains("qemu-system"), "{logs:?}");
}

#[test]
fn a_machine_that_is_kept_ready_is_handed_out_warm_and_another_takes_its_place() {
    let pool = serde_json::json!([{ "ready": 1 }]);
    let mut server = TestServer::builder().set("pool", pool).start();
    let ready = |server: &TestServer| {
        server
            .host()
            .sql("SELECT count(*) FROM vms WHERE state = 'ready'")
    };
    let one_is = |count: &String| count.trim() == "1";
    until("one is ready", PATIENCE * 2, || ready(&server), one_is);
    let machine = server.lease();
    let lease = server.api().show(machine.id(), 0).unwrap();
    assert!(lease.warm, "{lease:?}");
    machine.docker().ok(["version"]);
    until("another is ready", PATIENCE * 2, || ready(&server), one_is);
    server.api().release(machine.id());
    server.wait_state(machine.id(), LeaseState::Ended);
    // Only a server that stops gives the pool up.
    server.stop();
}
