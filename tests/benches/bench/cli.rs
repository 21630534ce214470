//! What the client costs a build machine: its size, how long `--help` takes, and the memory of `run` while it
//! waits for a machine. Takes neither a server nor root.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use e2e::figures::{Goal, Part, Unit};

const HELP: &str = "--help";
const PEAK: &str = "peak memory of `run` while it waits";
const TIMES: usize = 100;

const MIB: f64 = 1024.0 * 1024.0;

pub(crate) fn measure(cli: &Path) -> Part {
    let mut part = Part::begin(
        "cli",
        "What the client, as one static file, costs a build machine.",
    );
    let bytes = std::fs::metadata(cli).expect("the client").len();
    for number in 0..TIMES {
        part.time(HELP, help(cli));
        if number % 10 == 0 {
            part.add(PEAK, Unit::MiB, peak_while_waiting(cli));
        }
    }
    part.ask(HELP, Goal::AtMost(10.0));
    part.ask(PEAK, Goal::AtMost(15.0));
    let size = bytes as f64 / MIB;
    part.value("size", Unit::MiB, size, Some(Goal::AtMost(14.3)));
    part
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
