//! What the client costs a build machine: its size, how long `--help` takes, and the memory of `run` while
//! it waits for a machine. Takes a built client, such as that of `make cli-static`, and neither a server nor
//! root. `make bench` runs it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people that fails by panicking"
)]

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use e2e::figures::{Figures, quantile};

/// What the client costs a build machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// The client
    #[arg(long)]
    cli: PathBuf,
    /// How often each is measured
    #[arg(long, default_value_t = 100)]
    times: usize,
}

const MIB: f64 = 1024.0 * 1024.0;

fn main() {
    let arguments = Arguments::parse();
    let bytes = std::fs::metadata(&arguments.cli).expect("the client").len();
    let mut figures = Figures::default();
    for _ in 0..arguments.times {
        figures.add("--help", help(&arguments.cli));
    }
    figures.ask("--help", Duration::from_millis(10));
    println!("{}", figures.table());

    let mut peaks: Vec<f64> = (0..arguments.times.div_ceil(10))
        .map(|_| peak_while_waiting(&arguments.cli))
        .collect();
    peaks.sort_by(f64::total_cmp);
    println!(
        "peak memory of `run` while it waits: n {}, median {:.1} MiB, p95 {:.1} MiB (asked: 15)",
        peaks.len(),
        quantile(&peaks, 0.5),
        quantile(&peaks, 0.95),
    );
    println!("size: {:.1} MB (asked: 15)", bytes as f64 / 1e6);
}

fn client(cli: &Path) -> Command {
    let mut command = Command::new(cli);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// From before the process is made until it has ended.
fn help(cli: &Path) -> Duration {
    let begun = Instant::now();
    let status = client(cli).arg("--help").status().expect("the client");
    let took = begun.elapsed();
    assert!(status.success());
    took
}

/// In MiB, when the request has arrived at a server that does not answer.
fn peak_while_waiting(cli: &Path) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", server.local_addr().expect("its address"));
    let mut child = client(cli)
        .args(["run", "true"])
        .env("TMPDIR", folder.path())
        .env("REMOTE_DOCKER_URL", url)
        .env("REMOTE_DOCKER_TOKEN", "token")
        .spawn()
        .expect("the client");
    let (request, _) = server.accept().expect("a request");
    wait_for_body(&request);
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.expect("its peak").trim().trim_end_matches(" kB");
    let kib: f64 = kib.parse().expect("a number");
    child.kill().expect("the client");
    child.wait().expect("the client");
    kib * 1024.0 / MIB
}

/// Until all of the request is there: the program has nothing to do from then on.
fn wait_for_body(request: &TcpStream) {
    use std::io::{BufRead, BufReader, Read};
    let mut reader = BufReader::new(request);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        match line.trim().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().expect("a length");
            }
            Some(_) => {}
            None if line.starts_with("POST") => {}
            None => break,
        }
    }
    reader.read_exact(&mut vec![0; length]).expect("the body");
}
