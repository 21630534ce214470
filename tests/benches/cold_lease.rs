//! How long a cold lease takes: from `POST /v1/leases` to the first `docker version` that succeeds over
//! TLS through the relay, with no machine in stock. Prints the split by step and writes all numbers as
//! JSON. `make bench` runs it.
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
use e2e::setting::Setting;
use e2e::{Builder, TestServer};
use remote_docker_api::LeaseState;

/// How long a cold lease takes, split by step.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder of images
    #[arg(long)]
    images: PathBuf,
    /// Folder of the programs [default: that of this one]
    #[arg(long)]
    bin: Option<PathBuf>,
    /// How many leases, one after the other
    #[arg(long, default_value_t = 20)]
    leases: usize,
    /// Where to write the numbers [default: cold-lease.json beside the programs]
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Name of what counts: the whole.
const WHOLE: &str = "POST to docker version";
const ASKED: Duration = Duration::from_millis(1500);

fn main() {
    let arguments = Arguments::parse();
    let own = std::env::current_exe().expect("this program's path");
    let bin = arguments
        .bin
        .unwrap_or_else(|| own.parent().expect("its folder").to_owned());
    let json = arguments
        .json
        .unwrap_or_else(|| bin.join("cold-lease.json"));
    let setting = Setting::new(bin, arguments.images);
    let server = Builder::new(setting).start();
    let machine = describe(&server);
    eprintln!("{machine}");

    let mut figures = Figures::default();
    for number in 1..=arguments.leases {
        let whole = measure(&server, &mut figures);
        let ms = whole.as_millis();
        eprintln!("lease {number:>2} of {}: {ms} ms", arguments.leases);
    }
    figures.ask(WHOLE, ASKED);
    figures.report(&machine, &json);
}

fn measure(server: &TestServer, figures: &mut Figures) -> Duration {
    let key = ClientKey::generate();
    let request = key.request();
    assert!(server.host().machines().is_empty(), "a machine is in stock");

    let asked = Instant::now();
    let lease = server.api().create(&request).expect("a lease");
    let answered = asked.elapsed();
    assert!(!lease.warm, "the lease was not cold");
    let machine = server.hold(lease, &key);
    let written = asked.elapsed();
    machine.docker().ok(["version"]);
    let whole = asked.elapsed();

    for timing in &machine.lease.timings {
        let name = format!("server: {}", timing.step);
        figures.add(&name, Duration::from_millis(timing.duration_ms));
    }
    figures.add("client: POST answered", answered);
    figures.add("client: docker version", whole - written);
    figures.add(WHOLE, whole);
    server.api().release(machine.id());
    server.wait_state(machine.id(), LeaseState::Ended);
    whole
}
