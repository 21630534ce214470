//! Docker's clients for Python, with nothing but the variables that `run` gives.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use e2e::docker::BUSYBOX;
use e2e::process::{bounded, said, succeed, text};
use e2e::setting::python;
use e2e::{Docker, TestServer, tree, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(90);

fn script(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    folder.join(name).canonicalize().unwrap()
}

#[test]
fn docker_py_builds_and_runs() {
    docker_py(&TestServer::start());
}

/// A build, containers and their output by Python's library, on a machine of this server.
pub(crate) fn docker_py(server: &TestServer) {
    let cli = server.cli();
    let context = server.root().join("context");
    tree::write_busybox(&context.join("tree"));
    let dockerfile = "FROM scratch\nCOPY tree /\nRUN echo made > /made\n";
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();

    let mut command = cli.command(["run", "--"]);
    command.arg(python());
    command.args([&script("docker_py.py"), &context]);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(text(&done.stdout), "run\nmade\nerr\nremoved");
    until(
        "no lease is left",
        Duration::from_secs(60),
        || server.api().list(),
        Vec::is_empty,
    );
    server.wait_clean();
}

/// Makes the image that stands in for the reaper's.
fn build_reaper(server: &TestServer, docker: &Docker) {
    let context = server.root().join("reaper");
    let root = context.join("tree");
    tree::write_busybox(&root);
    fs::create_dir_all(root.join("var/run")).unwrap();
    tree::add_program(&root, &server.setting().docker(), "/bin/docker");
    fs::copy(script("reaper.sh"), context.join("reaper.sh")).unwrap();
    let dockerfile = "FROM scratch\nCOPY tree /\nCOPY reaper.sh /\nCMD [\"sh\", \"/reaper.sh\"]\n";
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    succeed(docker.command(["build", "--tag", "reaper"]).arg(&context));
}

/// The reaper runs on the machine, hears of the test's end through a port that it publishes there, and
/// removes containers by their label through the machine's own Docker socket.
#[test]
fn testcontainers_that_is_killed_leaves_no_container() {
    let server = TestServer::start();
    // Connections out of here must not take the port that leads to the reaper.
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 60999").unwrap();
    let cli = server.cli();
    let lease: serde_json::Value =
        serde_json::from_str(&cli.ok(["start", "--format", "json"])).unwrap();
    let field = |name: &str| lease[name].as_str().unwrap();
    let docker = server
        .docker()
        .at(field("docker_host"), Path::new(field("docker_cert_path")));
    docker.import_busybox();
    build_reaper(&server, &docker);
    docker.ok(["run", "-d", "--name", "bystander", BUSYBOX, "sleep", "900"]);

    let mut command = bounded(PATIENCE, python());
    docker.environment(&mut command);
    // All that the lease gave, for in a container, as CI jobs are, Testcontainers would take an address on
    // loopback for its own daemon's.
    for (name, value) in lease["environment"].as_object().unwrap() {
        command.env(name, value.as_str().unwrap());
    }
    let user = command
        .arg("-B")
        .arg(script("testcontainers_killed.py"))
        .env("RYUK_CONTAINER_IMAGE", "reaper")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A tunnel takes connections for a port where nobody listens yet, and the library does not try again
    // then, so there is none before the reaper listens.
    let names = [
        "ps",
        "--filter",
        "ancestor=reaper",
        "--format",
        "{{.Names}}",
    ];
    let reaper = until(
        "the reaper runs",
        PATIENCE,
        || docker.ok(names),
        |it| !it.is_empty(),
    );
    until(
        "the reaper listens",
        PATIENCE,
        || {
            text(
                &docker
                    .command(["exec", &reaper, "netstat", "-ltn"])
                    .output()
                    .unwrap()
                    .stdout,
            )
        },
        |sockets| sockets.contains(":8080 "),
    );
    let published = docker.ok(["port", &reaper, "8080/tcp"]);
    let (_, port) = published.lines().next().unwrap().rsplit_once(':').unwrap();
    let way = format!("{port}:localhost:{port}");
    let mut tunnel = cli
        .bare(["ssh", "--lease", field("lease_id"), "-N", "-L", &way])
        .spawn()
        .unwrap();

    let done = user.wait_with_output().unwrap();
    assert_eq!(text(&done.stdout), "inside", "{}", said(&done));
    let killed = done.status.signal() == Some(9) || done.status.code() == Some(128 + 9);
    assert!(killed, "{}", said(&done));
    until(
        "the test's container and the reaper are gone",
        PATIENCE,
        || docker.ok(["ps", "--all", "--format", "{{.Names}}"]),
        |names| names == "bystander",
    );
    kill(
        Pid::from_raw(i32::try_from(tunnel.id()).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    tunnel.wait().unwrap();
    cli.ok(["stop", field("lease_id")]);
}
