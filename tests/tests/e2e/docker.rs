//! What a build does with a daemon, through the lease.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::docker::BUSYBOX;
use e2e::process::{said, succeed, text};
use e2e::{Docker, TestServer, until};

#[test]
fn docker_version() {
    let server = TestServer::start();
    let cli = server.cli();
    let lease: serde_json::Value =
        serde_json::from_str(&cli.ok(["start", "--format", "json"])).unwrap();
    let told = |name: &str| lease[name].as_str().unwrap();
    let id = told("lease_id");
    let ssh = |script: &str| succeed(&mut cli.command(["ssh", "--lease", id, "--", script]));
    let docker = server
        .docker()
        .at(told("docker_host"), Path::new(told("docker_cert_path")));
    is_promised(&server, &docker);

    // The daemon is told what runc said before the template was copied, and runc is not run again. Another one in its
    // place is, however old it seems, and so is one that was written into the same file.
    let runc = || {
        let format =
            "{{range .Server.Components}}{{if eq .Name \"runc\"}}{{.Version}}{{end}}{{end}}";
        docker.ok(["version", "--format", format])
    };
    let said = ssh("runc --version | sed -n 's/^runc version //p'");
    assert!(!said.is_empty());
    assert_eq!(runc(), said);
    ssh("sed -i 's/^runc version .*/runc version 7.7.7/' /run/runc-version");
    assert_eq!(runc(), "7.7.7");
    ssh("runc=$(readlink -f $(command -v runc)) && \
         printf '#!/bin/sh\necho runc version 8.8.8\n' >/root/other && chmod 755 /root/other && \
         cat /root/other >$runc");
    assert_eq!(runc(), "8.8.8");
    ssh(
        "sed -i s/8.8.8/9.9.9/ /root/other && touch -d 2001-01-01 /root/other && \
         mv /root/other $(readlink -f $(command -v runc))",
    );
    assert_eq!(runc(), "9.9.9");
    cli.ok(["stop", id]);
}

/// The daemon on a machine of this server is of the version that the image promises.
pub(crate) fn version(server: &TestServer) {
    is_promised(server, server.lease().docker());
}

fn is_promised(server: &TestServer, docker: &Docker) {
    let version = docker.ok(["version", "--format", "{{.Server.Version}}"]);
    let manifest = std::fs::read(server.setting().image().join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let promised = manifest["engine_version"].as_str().unwrap();
    assert!(version.starts_with(promised), "{version}, image {promised}");
}

#[test]
fn run_starts_a_container_and_passes_its_exit_code_on() {
    run(&TestServer::start());
}

/// Containers on a machine of this server.
pub(crate) fn run(server: &TestServer) {
    let machine = server.lease();
    let docker = machine.docker();
    docker.import_busybox();
    assert_eq!(docker.busybox(&[], ["echo", "hello"]), "hello");
    let status = docker
        .command(["run", "--rm", BUSYBOX, "sh", "-c", "exit 42"])
        .status();
    assert_eq!(status.unwrap().code(), Some(42));
}

#[test]
fn a_privileged_container_may_do_anything_on_its_own_kernel() {
    let server = TestServer::start();
    let machine = server.lease();
    let docker = machine.docker();
    docker.import_busybox();
    let mount = "mount -t tmpfs none /mnt && grep -c ' /mnt tmpfs ' /proc/mounts";
    assert_eq!(docker.busybox(&["--privileged"], ["sh", "-c", mount]), "1");
    let here = succeed(Command::new("uname").arg("-r"));
    assert_ne!(docker.busybox(&[], ["uname", "-r"]), here);
}

#[test]
fn containers_reach_each_other_by_name() {
    let server = TestServer::start();
    let machine = server.lease();
    let docker = machine.docker();
    docker.import_busybox();
    docker.ok(["network", "create", "net"]);
    docker.ok([
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "net",
        BUSYBOX,
        "sh",
        "-c",
        "echo served > /tmp/index.html; httpd -f -p 80 -h /tmp",
    ]);
    let fetch =
        "for i in 1 2 3 4 5 6 7 8 9; do wget -q -O - http://web/ && exit; sleep 1; done; exit 1";
    let said = docker.ok([
        "run",
        "--rm",
        "--network",
        "net",
        BUSYBOX,
        "sh",
        "-c",
        fetch,
    ]);
    assert_eq!(said, "served");
    docker.ok(["rm", "-f", "web"]);
}

/// The container answers only after its input has ended: the end must come through while the way back
/// stays open.
#[test]
fn run_with_a_pipe_that_ends() {
    const BYTES: usize = 5_000_000;
    let server = TestServer::start();
    let machine = server.lease();
    let docker = machine.docker();
    docker.import_busybox();
    let mut child = docker
        .command([
            "run",
            "-i",
            "--rm",
            BUSYBOX,
            "sh",
            "-c",
            "wc -c; echo after the end",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&vec![b'x'; BYTES]).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(text(&output.stdout), format!("{BYTES}\nafter the end"));
}

#[test]
fn exec_and_logs_and_cp() {
    let server = TestServer::start();
    let machine = server.lease();
    let docker = machine.docker();
    docker.import_busybox();

    // The container goes on only when it is told so: what `logs -f` shows before is shown live.
    let script = "echo first; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo second";
    docker.ok(["run", "-d", "--name", "waits", BUSYBOX, "sh", "-c", script]);
    let mut logs = docker
        .command(["logs", "-f", "waits"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = logs.stdout.take().unwrap();
    let mut seen = [0; 6];
    out.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"first\n");

    assert_eq!(docker.ok(["exec", "waits", "cat", "/proc/1/comm"]), "sh");
    let note = server.root().join("note");
    std::fs::write(&note, "copied\n").unwrap();
    docker.ok(["cp", note.to_str().unwrap(), "waits:/tmp/note"]);
    assert_eq!(docker.ok(["exec", "waits", "cat", "/tmp/note"]), "copied");
    let back = server.root().join("back");
    docker.ok(["cp", "waits:/tmp/note", back.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(back).unwrap(), "copied\n");

    docker.ok(["exec", "waits", "touch", "/tmp/go"]);
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "second\n");
    assert!(logs.wait().unwrap().success());
}

/// 200 MB that do not compress, from one machine to another, both ways of the relay at once.
#[test]
fn save_and_load_of_200_mb() {
    const MIB: u64 = 200;
    let server = TestServer::start();
    let (from, to) = (server.lease(), server.lease());
    from.docker().import_busybox();
    let fill = format!("dd if=/dev/urandom of=/big bs=1M count={MIB} && sha256sum /big");
    let sum = from
        .docker()
        .ok(["run", "--name", "fill", BUSYBOX, "sh", "-c", &fill]);
    from.docker().ok(["commit", "fill", "big"]);

    let mut save = from
        .docker()
        .command(["save", "big"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut load = to.docker().command(["load"]);
    load.stdin(save.stdout.take().unwrap());
    let loaded = succeed(&mut load);
    assert!(save.wait().unwrap().success());
    assert!(loaded.contains("big:latest"), "{loaded}");

    let size = to
        .docker()
        .ok(["image", "inspect", "--format", "{{.Size}}", "big"]);
    assert!(size.parse::<u64>().unwrap() >= MIB << 20, "{size}");
    let there = to.docker().ok(["run", "--rm", "big", "sha256sum", "/big"]);
    assert_eq!(there, sum);
}

#[test]
fn the_second_lease_of_a_test_server_is_as_good_as_the_first() {
    let server = TestServer::start();
    for _ in 0..2 {
        let machine = server.lease();
        machine.docker().ok(["info"]);
        server.api().release(machine.id());
        until(
            "the machine is gone",
            Duration::from_secs(60),
            || server.host().machines(),
            Vec::is_empty,
        );
    }
}
