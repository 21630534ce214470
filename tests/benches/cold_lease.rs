//! How long a cold lease takes: from `POST /v1/leases` to the first `docker version` that succeeds over
//! TLS through the relay, with no machine in stock. Prints the split by step and writes all numbers as
//! JSON. `make bench` runs it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people that fails by panicking"
)]

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Parser;
use e2e::machine::ClientKey;
use e2e::process::{bounded, succeed};
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

/// What one lease was made of: steps in order, in milliseconds.
#[derive(Debug, Default, serde::Serialize)]
struct Sample {
    steps: Vec<(String, f64)>,
}

/// Name of what counts: the whole.
const WHOLE: &str = "POST to docker version";

fn main() {
    let arguments = Arguments::parse();
    let own = std::env::current_exe().expect("this program's path");
    let bin = arguments
        .bin
        .unwrap_or_else(|| own.parent().expect("its folder").to_owned());
    let json = arguments
        .json
        .unwrap_or_else(|| bin.join("cold-lease.json"));
    let setting = Setting {
        bin,
        images: arguments.images,
    };
    let server = Builder::new(setting).start();
    let machine = describe(&server);
    eprintln!("{machine}");

    let mut samples = Vec::new();
    for number in 1..=arguments.leases {
        let sample = measure(&server);
        let (_, whole) = sample.steps.last().expect("the whole");
        eprintln!("lease {number:>2} of {}: {whole:.0} ms", arguments.leases);
        samples.push(sample);
    }
    report(&samples);
    let document = serde_json::json!({ "machine": machine, "unit": "ms", "samples": samples });
    std::fs::write(&json, format!("{document:#}\n")).expect("writing the numbers");
    println!("\n{machine}\nall numbers: {}", json.display());
}

fn measure(server: &TestServer) -> Sample {
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

    let mut sample = Sample::default();
    for timing in &machine.lease.timings {
        let name = format!("server: {}", timing.step);
        sample
            .steps
            .push((name, f64::from(u32::try_from(timing.duration_ms).unwrap())));
    }
    let parts = [
        ("client: POST answered", answered),
        ("client: docker version", whole - written),
        (WHOLE, whole),
    ];
    for (name, duration) in parts {
        sample.steps.push((name.to_owned(), milliseconds(duration)));
    }
    server.api().release(machine.id());
    server.wait_state(machine.id(), LeaseState::Ended);
    sample
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn report(samples: &[Sample]) {
    let first = samples.first().expect("a sample");
    println!(
        "\n{:<34} {:>4} {:>9} {:>9} {:>9} {:>9}   (ms)",
        "step", "n", "median", "p95", "min", "max"
    );
    for (name, _) in &first.steps {
        let mut values: Vec<f64> = samples
            .iter()
            .flat_map(|sample| sample.steps.iter().filter(|(step, _)| step == name))
            .map(|(_, value)| *value)
            .collect();
        values.sort_by(f64::total_cmp);
        println!(
            "{name:<34} {:>4} {:>9.1} {:>9.1} {:>9.1} {:>9.1}",
            values.len(),
            quantile(&values, 0.5),
            quantile(&values, 0.95),
            values[0],
            values[values.len() - 1],
        );
    }
}

/// Of sorted values, between the two that are nearest to it.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (
        sorted[place.floor() as usize],
        sorted[place.ceil() as usize],
    );
    below + (above - below) * place.fract()
}

/// The machine that the numbers are from.
fn describe(server: &TestServer) -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, name)| name);
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = succeed(Command::new("uname").arg("-r"));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let qemu = succeed(bounded(Duration::from_secs(10), "qemu-system-x86_64").arg("--version"));
    let qemu = qemu.lines().next().unwrap_or_default();
    let accelerator = if server.log().contains("kvm") {
        "kvm"
    } else {
        "tcg"
    };
    format!(
        "{processors} x {model}, Linux {kernel}, {qemu}, {accelerator}, load {load} at the start"
    )
}
