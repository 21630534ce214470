//! How long the other moments of a lease take, on real machines: one that gets a machine out of the pool,
//! as the server and as the whole CLI see it; its end, until the machine has given its memory back; and
//! many that are asked for at once with nothing in stock. `make bench` runs it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a program for people that fails by panicking"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use e2e::figures::{Figures, describe};
use e2e::machine::ClientKey;
use e2e::process::{Watched, said};
use e2e::setting::Setting;
use e2e::{Builder, TestServer, until};
use remote_docker_api::{Lease, LeaseState};

/// How long leases take to begin and to end.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder of images
    #[arg(long)]
    images: PathBuf,
    /// Folder of the programs [default: that of this one]
    #[arg(long)]
    bin: Option<PathBuf>,
    /// How often each moment is measured
    #[arg(long, default_value_t = 20)]
    times: usize,
    /// How many leases are asked for at once
    #[arg(long, default_value_t = 20)]
    at_once: usize,
    /// How often that is done
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Where to write the numbers [default: lease-times.json beside the programs]
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Enough for anything on a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(300);

/// So long after a machine was made, what followed from that is over too.
const REST: Duration = Duration::from_secs(1);

const ANSWER: &str = "warm: POST answered";
const SERVER: &str = "warm: both, as the server logs it";
const START: &str = "warm: the whole of `start`";
const RELEASE: &str = "DELETE to machine gone";
const EXPIRY: &str = "expiry to machine gone";

fn main() {
    let arguments = Arguments::parse();
    let own = std::env::current_exe().expect("this program's path");
    let bin = arguments
        .bin
        .clone()
        .unwrap_or_else(|| own.parent().expect("its folder").to_owned());
    let json = arguments
        .json
        .clone()
        .unwrap_or_else(|| bin.join("lease-times.json"));
    let setting = Setting::new(bin, arguments.images.clone());
    let mut figures = Figures::default();
    let machine = warm(&setting, arguments.times, &mut figures);
    ends(&setting, arguments.times, &mut figures);
    let last = many(&setting, &arguments, &mut figures);
    for (name, median) in [
        (ANSWER, Duration::from_millis(10)),
        (SERVER, Duration::from_millis(10)),
        (START, Duration::from_millis(60)),
        (RELEASE, Duration::from_millis(500)),
        (EXPIRY, Duration::from_millis(500)),
        (last.as_str(), Duration::from_secs(20)),
    ] {
        figures.ask(name, median);
    }
    figures.report(&machine, &json);
}

/// Leases that get a machine out of the pool.
fn warm(setting: &Setting, times: usize, figures: &mut Figures) -> String {
    let pool = serde_json::json!([{ "ready": 1 }]);
    let mut server = Builder::new(setting.clone()).set("pool", pool).start();
    let machine = describe(&server);
    eprintln!("{machine}");
    for number in 1..=times {
        wait_for_stock(&server);
        let request = ClientKey::generate().request();
        let asked = Instant::now();
        let lease = server.api().create(&request).expect("a lease");
        figures.add(ANSWER, asked.elapsed());
        assert!(lease.warm, "it did not come out of the pool");
        give_back(&server, &lease);

        wait_for_stock(&server);
        let cli = server.cli();
        let mut start = cli.bare(["start", "--format", "json"]);
        let asked = Instant::now();
        let output = start.output().expect("running the CLI");
        figures.add(START, asked.elapsed());
        assert!(output.status.success(), "start: {}", said(&output));
        let started: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        cli.ok([
            "stop",
            "--wait",
            started["lease_id"].as_str().expect("an id"),
        ]);
        eprintln!("warm lease {number} of {times}");
    }
    for duration in answers_in_log(&server.log()) {
        figures.add(SERVER, duration);
    }
    // Only a server that stops gives its pool up.
    server.stop();
    machine
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

fn give_back(server: &TestServer, lease: &Lease) {
    server.api().release(lease.id);
    server.wait_state(lease.id, LeaseState::Ended);
}

/// The ends of leases.
#[expect(
    clippy::disallowed_methods,
    reason = "the server says when a lease expires by the same clock"
)]
fn ends(setting: &Setting, times: usize, figures: &mut Figures) {
    let server = Builder::new(setting.clone()).start();
    for number in 1..=times {
        let lease = server.lease();
        let process = the_machine(&server);
        let begun = Instant::now();
        server.api().release(lease.id());
        process.wait_gone(LIMIT);
        figures.add(RELEASE, begun.elapsed());
        server.wait_state(lease.id(), LeaseState::Ended);

        let lease = server.lease_for(3);
        let process = the_machine(&server);
        process.wait_gone(LIMIT);
        let gone = std::time::SystemTime::now();
        let expired = lease.lease.expires_at.expect("an active lease").into();
        let late = gone.duration_since(expired).expect("not before its time");
        figures.add(EXPIRY, late);
        server.wait_state(lease.id(), LeaseState::Ended);
        eprintln!("end {number} of {times}");
    }
}

/// The process of the only machine there is.
fn the_machine(server: &TestServer) -> Watched {
    let machines = server.host().machines();
    assert_eq!(machines.len(), 1, "one machine");
    Watched::open(machines[0])
}

/// Many leases at once. Answers what the figure is called that counts.
fn many(setting: &Setting, arguments: &Arguments, figures: &mut Figures) -> String {
    let count = arguments.at_once;
    let [first, last] = ["first", "last"].map(|which| format!("{count} at once: {which} is ready"));
    let port = e2e::server::RELAY_PORT;
    let ports = format!("{port}-{}", usize::from(port) + count);
    let server = Builder::new(setting.clone())
        .set("relay.ports", ports)
        .set("limits.memory_budget_mib", count as u64 * 1024)
        .start();
    for round in 1..=arguments.rounds {
        let begun = Instant::now();
        let requests: Vec<_> = (0..count)
            .map(|_| ClientKey::generate().request())
            .collect();
        let took = server.at_once(requests);
        let mut took: Vec<Duration> = took.into_iter().map(|(took, _)| took).collect();
        took.sort();
        figures.add(&first, took[0]);
        figures.add(&last, took[count - 1]);
        for lease in server.api().list() {
            server.api().release(lease.id);
        }
        server.wait_clean();
        eprintln!("round {round}: {} ms in all", begun.elapsed().as_millis());
    }
    last
}
