//! A lease that gets a machine out of the pool: what the server answers in, and the whole of the client's process.

use std::time::{Duration, Instant};

use e2e::figures::{Goal, Part};
use e2e::machine::ClientKey;
use e2e::process::said;
use e2e::setting::Setting;
use e2e::{Builder, TestServer, until};
use remote_docker_api::LeaseState;

use crate::Plan;
use crate::ends::LIMIT;

/// So long after a machine was made, what followed from that is over too.
const REST: Duration = Duration::from_secs(1);

/// What the client took tells of the server's share too, so the API alone is asked less often.
const API_EACH: usize = 3;

const START: &str = "the whole of `setup-remote-docker start`";
const ANSWER: &str = "POST answered";
const SERVER: &str = "both, as the server logs it";

pub(crate) fn measure(setting: &Setting, plan: &Plan) -> Part {
    let mut part = Part::begin(
        "warm",
        "A lease that gets a machine which is ready, by the client (key, request, answer, files: from before its \
         process is made until it has ended) and by the API alone, in turns.",
    );
    let pool = serde_json::json!([{ "ready": 1 }]);
    let mut server = Builder::new(setting.clone()).set("pool", pool).start();
    for number in 0..plan.leases {
        by_client(&server, &mut part);
        if number % API_EACH == 0 {
            by_api(&server, &mut part);
        }
        eprintln!("warm lease {} of {}", number + 1, plan.leases);
    }
    for duration in answers_in_log(&server.log()) {
        part.time(SERVER, duration);
    }
    part.ask(START, Goal::AtMost(50.0));
    for name in [ANSWER, SERVER] {
        part.ask(name, Goal::AtMost(10.0));
    }
    // Only a server that stops gives its pool up.
    server.stop();
    part
}

fn by_client(server: &TestServer, part: &mut Part) {
    wait_for_stock(server);
    let cli = server.cli();
    let mut start = cli.bare(["start", "--format", "json"]);
    let asked = Instant::now();
    let output = start.output().expect("running the client");
    part.time(START, asked.elapsed());
    assert!(output.status.success(), "start: {}", said(&output));
    let started: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let id = started["lease_id"].as_str().expect("an id");
    cli.ok(["stop", "--wait", id]);
}

fn by_api(server: &TestServer, part: &mut Part) {
    wait_for_stock(server);
    let request = ClientKey::generate().request();
    let asked = Instant::now();
    let lease = server.api().create(&request).expect("a lease");
    part.time(ANSWER, asked.elapsed());
    assert!(lease.warm, "it did not come out of the pool");
    server.api().release(lease.id);
    server.wait_state(lease.id, LeaseState::Ended);
}

/// Waits until one machine is ready, and everything that its making brought about is over.
fn wait_for_stock(server: &TestServer) {
    let ready = "SELECT count(*) FROM vms WHERE state = 'ready'";
    until(
        "one is ready",
        LIMIT,
        || server.host().sql(ready),
        |count| count.trim() == "1",
    );
    std::thread::sleep(REST);
}

/// How long the server itself says that it took for the leases that were asked of it.
fn answers_in_log(log: &str) -> Vec<Duration> {
    let answers = log
        .lines()
        .filter(|line| line.contains("POST /v1/leases answered 201"));
    let duration = |line: &str| {
        let (_, rest) = line.split_once("duration_ms=")?;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        Some(Duration::from_millis(digits.parse().ok()?))
    };
    answers.filter_map(duration).collect()
}
