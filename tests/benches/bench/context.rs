//! A build's context on its way into a machine: through the lease's port, over TLS to the machine itself from within
//! the VMs' namespace, and from there without TLS. In turns, each as the docker CLI sends it.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::figures::{Goal, Part, Unit};
use e2e::process::{bounded, succeed};
use e2e::setting::Setting;
use e2e::tree::{add_program, write_busybox};
use e2e::{Builder, Machine, TestServer, eventually};

use crate::Plan;

const LEASE: &str = "through the lease";
const DIRECT: &str = "TLS to the machine itself";
const PLAIN: &str = "the same without TLS";

/// For one build.
const LIMIT: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_secs(60);
/// Where the machine takes connections for its Docker daemon without TLS, for this measurement.
const PLAIN_PORT: u16 = 2375;

pub(crate) fn measure(setting: &Setting, plan: &Plan) -> Part {
    let size = plan.context_mib;
    let mut part = Part::begin(
        "context",
        &format!(
            "`docker build` (the classic builder) with a context of {size} MiB, of which nothing is copied: through the \
             lease, and to the machine itself from within the VMs' namespace, with TLS and without."
        ),
    );
    let server = Builder::new(setting.clone()).start();
    let machine = server.lease_for(3600);
    let context = server.root().join("context");
    write_context(&context, size);
    // The first build finds nothing in memory.
    let small = server.root().join("small");
    write_context(&small, 1);
    let namespace = server.host().namespace().expect("a namespace");
    let address = address(&server);
    serve_plainly(&server, &machine);
    let tcp = |port: u16| format!("tcp://{address}:{port}");

    let direct = server.docker().at(&tcp(2376), machine.certificates());
    let inside = || {
        let mut command = bounded(LIMIT, "nsenter");
        command.arg(format!("--net=/run/netns/{namespace}"));
        command.arg(setting.docker());
        command
    };
    let through = |context: &Path| {
        timed(context, bounded(LIMIT, setting.docker()), |command| {
            machine.docker().environment(command);
        })
    };
    let directly = |context: &Path| timed(context, inside(), |command| direct.environment(command));
    let plainly = |context: &Path| {
        timed(context, inside(), |command| {
            server.docker().environment(command);
            command.env("DOCKER_HOST", tcp(PLAIN_PORT));
        })
    };
    let ways: [Way<'_>; 3] = [(LEASE, &through), (DIRECT, &directly), (PLAIN, &plainly)];
    // A gigabyte takes most of a minute without hardware virtualization, so what nothing is asked of is sent every
    // other time only. The two that are compared change places, lest the machine has more to clean up for one of them.
    let back: [Way<'_>; 2] = [(DIRECT, &directly), (LEASE, &through)];
    let all = plan.context_rounds;
    for round in 0..=all {
        let context = if round == 0 { &small } else { &context };
        let ways: &[Way<'_>] = if round > 0 && round % 2 == 0 {
            &back
        } else {
            &ways
        };
        for (name, send) in ways {
            let took = send(context);
            if round > 0 {
                part.time(name, took);
            }
            eprintln!("round {round} of {all}: {} ms {name}", took.as_millis());
        }
    }
    part.ratio(
        "through the lease: so many times TLS to the machine",
        LEASE,
        DIRECT,
        Some(Goal::AtMost(1.1)),
    );
    let tls = part.median(DIRECT) / part.median(PLAIN);
    part.value(
        "what TLS itself costs: so many times without",
        Unit::Times,
        tls,
        None,
    );
    let rate = size as f64 * 1000.0 / part.median(LEASE);
    part.value("through the lease", Unit::MiBPerS, rate, None);
    part.note(
        "Without TLS the machine's own docker CLI passes bytes between a port and the daemon's socket, where the agent \
         does it otherwise. Under software emulation the machine is what limits all three.",
    );
    part
}

/// What a way is called, and sends a context on it.
type Way<'a> = (&'static str, &'a dyn Fn(&Path) -> Duration);

fn timed(context: &Path, mut command: Command, environment: impl Fn(&mut Command)) -> Duration {
    command
        .args(["build", "--quiet", "--no-cache"])
        .arg(context);
    environment(&mut command);
    command.env("DOCKER_BUILDKIT", "0");
    let begun = Instant::now();
    succeed(&mut command);
    begun.elapsed()
}

/// A file of bytes that do not repeat, and a build that has no use for it.
fn write_context(folder: &Path, mib: usize) {
    fs::create_dir_all(folder).expect("a folder");
    let dockerfile = "FROM scratch\nCOPY Dockerfile /\n";
    fs::write(folder.join("Dockerfile"), dockerfile).expect("a Dockerfile");
    let mut file = File::create(folder.join("blob")).expect("a file");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = vec![0; 1 << 20];
    for _ in 0..mib {
        for word in block.chunks_exact_mut(8) {
            // xorshift: quick, and nothing shrinks it.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_ne_bytes());
        }
        file.write_all(&block).expect("a file");
    }
}

/// The address of the only machine.
fn address(server: &TestServer) -> Ipv4Addr {
    let wires = server.host().wires();
    let first = wires
        .iter()
        .filter_map(|wire| wire.split_whitespace().next());
    let mut addresses = first.filter_map(|word| word.parse().ok());
    addresses.next().expect("a route to the machine")
}

/// Lets the machine take connections for its Docker daemon without TLS.
fn serve_plainly(server: &TestServer, machine: &Machine) {
    let tree = server.root().join("plain");
    write_busybox(&tree);
    add_program(&tree, &server.setting().docker(), "/bin/docker");
    let archive = server.root().join("plain.tar");
    let mut tar = bounded(SHORT, "tar");
    succeed(tar.arg("-C").arg(&tree).arg("-cf").arg(&archive).arg("."));
    let docker = machine.docker();
    docker.ok([
        "import",
        archive.to_str().expect("a path in UTF-8"),
        "plain",
    ]);
    let pass = "/bin/docker --host unix:///docker.sock system dial-stdio";
    let script = format!(
        "printf '#!/bin/sh\\nexec {pass}\\n' >/pass; chmod +x /pass; exec nc -ll -p {PLAIN_PORT} -e /pass"
    );
    docker.ok([
        "run",
        "--detach",
        "--network=host",
        "--volume=/run/docker.sock:/docker.sock",
        "plain",
        "sh",
        "-c",
        &script,
    ]);
    let listens = format!(":{PLAIN_PORT:04X} ");
    eventually("somebody listens without TLS", SHORT, || {
        let mut run = docker.command([
            "run",
            "--rm",
            "--network=host",
            "plain",
            "cat",
            "/proc/net/tcp",
            "/proc/net/tcp6",
        ]);
        let sockets = succeed(&mut run);
        sockets.contains(&listens).then_some(()).ok_or(sockets)
    });
}
