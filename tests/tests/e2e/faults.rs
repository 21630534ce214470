//! Bad circumstances: each is named with what to do about it, and nothing is lost.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::machine::ClientKey;
use e2e::process::{said, text};
use e2e::{Builder, TestServer};
use remote_docker_api::{EndReason, ErrorCode, LeaseState};

/// Runs a server that refuses to serve, and returns its words.
fn refusal(builder: Builder) -> String {
    let (server, _) = builder.prepare();
    refusal_of(&server, server.command())
}

fn refusal_of(server: &TestServer, command: Command) -> String {
    let mut bounded = e2e::process::bounded(Duration::from_secs(60), command.get_program());
    bounded.args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        bounded.env(name, value.unwrap_or_default());
    }
    let output = bounded.output().unwrap();
    assert!(
        !output.status.success() && output.status.code() != Some(124),
        "it should have refused: {}\n{}",
        said(&output),
        server.log()
    );
    assert!(
        !text(&output.stderr).contains("panicked"),
        "{}",
        said(&output)
    );
    text(&output.stderr)
}

fn assert_says(words: &str, parts: &[&str]) {
    for part in parts {
        assert!(words.contains(part), "no `{part}` in: {words}");
    }
}

#[test]
fn no_image() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let words = refusal(TestServer::builder().set("images_dir", path));
    assert_says(&words, &[path, "images/build.sh"]);
}

#[test]
fn an_image_with_a_wrong_checksum() {
    let builder = TestServer::builder();
    let (server, _) = TestServer::builder().prepare();
    let images = server.root().join("images");
    let image = images.join("trixie");
    std::fs::create_dir_all(&image).unwrap();
    for name in [
        "disk.qcow2",
        "initrd.img",
        "manifest.json",
        "manifest.sha256",
    ] {
        std::os::unix::fs::symlink(server.setting().image().join(name), image.join(name)).unwrap();
    }
    let mut kernel = std::fs::read(server.setting().image().join("vmlinuz")).unwrap();
    let middle = kernel.len() / 2;
    kernel[middle] ^= 1;
    std::fs::write(image.join("vmlinuz"), kernel).unwrap();
    let words = refusal(builder.set("images_dir", images.to_str().unwrap()));
    assert_says(&words, &["vmlinuz", "sha256", "build the image again"]);
}

#[test]
fn a_state_folder_that_another_server_holds() {
    let server = TestServer::start();
    let words = refusal_of(&server, server.command());
    let state = server.state();
    assert_says(&words, &["another remote-dockerd", state.to_str().unwrap()]);
    // One whose configuration can be read once only knows of that folder as well, although each server
    // begins twice (`heap.rs`).
    let words = refusal_of(&server, piped(&server));
    assert_says(&words, &["another remote-dockerd", state.to_str().unwrap()]);
    // The other goes on as if nothing had been.
    server.lease().docker().ok(["version"]);
}

#[test]
fn a_state_folder_that_is_not_writable() {
    let (server, _) = TestServer::builder().prepare();
    let state = server.state();
    // Root may write everywhere but to a file system that is mounted read-only.
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.arg("mount -t tmpfs -o ro none \"$0\" && exec \"$@\"");
    command.arg(&state);
    let words = refusal_of(&server, wrapped(command, &server));
    assert_says(&words, &["cannot write", state.to_str().unwrap()]);
}

#[test]
fn a_server_that_is_not_root() {
    let (server, _) = TestServer::builder().prepare();
    // A copy that everybody can reach, and a state folder that anybody can write to: what is missing
    // is the right to make networks and machines, nothing else.
    let program = server.root().join("remote-dockerd");
    std::fs::copy(server.setting().server(), &program).unwrap();
    std::fs::set_permissions(server.state(), PermissionsExt::from_mode(0o777)).unwrap();
    let config = server.root().join("config.toml");
    std::fs::set_permissions(&config, PermissionsExt::from_mode(0o644)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(program).args(["serve", "--config"]).arg(config);
    let words = refusal_of(&server, command);
    assert_says(&words, &["root"]);
}

/// The server with its configuration from a pipe.
fn piped(server: &TestServer) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "cat \"$1\" | \"$0\" serve --config /dev/stdin"]);
    command.arg(server.setting().server());
    command.arg(server.root().join("config.toml"));
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// A command in front of the server's own.
fn wrapped(mut front: Command, server: &TestServer) -> Command {
    let own = server.command();
    front.arg(own.get_program()).args(own.get_args());
    front
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    front
}

#[test]
fn all_ports_taken() {
    let one = e2e::server::RELAY_PORT;
    let server = TestServer::builder()
        .set("relay.ports", format!("{one}-{one}"))
        .start();
    let first = server.lease();
    let mut request = ClientKey::generate().request();
    request.wait_s = Some(8);
    let problem = server.api().create(&request).unwrap_err();
    assert_eq!(problem.code, ErrorCode::NoCapacity, "{problem:?}");
    assert_says(&server.log(), &["port"]);
    // The port is used again when it is free.
    first.docker().ok(["version"]);
    server.api().release(first.id());
    server.lease().docker().ok(["version"]);
}

/// The state folder of this server is a small file system of its own.
#[test]
fn a_disk_that_is_full_while_a_machine_is_cloned() {
    let (mut server, _) = TestServer::builder().without_shared_template().prepare();
    let state = server.state();
    mount_disk(&state, "700m");
    server.spawn(None);
    server.wait_ready();
    let filler = state.join("filler");
    let mut dd = Command::new("dd");
    dd.args(["if=/dev/zero", "bs=64k"])
        .arg(format!("of={}", filler.display()));
    assert!(
        !dd.output().unwrap().status.success(),
        "the disk should be full"
    );

    let mut request = ClientKey::generate().request();
    request.wait_s = Some(10);
    let problem = server.api().create(&request).unwrap_err();
    assert_eq!(problem.code, ErrorCode::NoCapacity, "{problem:?}");
    let why = problem.detail;
    assert_says(&why, &["no space left", "limits.disk_reserve_mib"]);
    assert_says(&server.log(), &["no space left"]);

    std::fs::remove_file(&filler).unwrap();
    let machine = server.lease();
    machine.docker().ok(["version"]);
    server.api().release(machine.id());
    server.wait_clean();
}

/// In a mount namespace of the test's own, which ends with it.
fn mount_disk(on: &Path, size: &str) {
    use nix::mount::{MsFlags, mount};
    let none: Option<&str> = None;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(
        Some("none"),
        on,
        Some("tmpfs"),
        MsFlags::empty(),
        Some(format!("size={size},mode=711").as_str()),
    )
    .unwrap();
}

/// One machine writes until the host's disk is full. The state folder is a small file system of its
/// own.
#[test]
fn a_machine_that_fills_the_host_disk_loses_its_lease_and_nobody_else_does() {
    let (mut server, _) = TestServer::builder().without_shared_template().prepare();
    let state = server.state();
    mount_disk(&state, "1700m");
    server.spawn(None);
    server.wait_ready();
    let (greedy, modest) = (server.lease(), server.lease());
    for machine in [&greedy, &modest] {
        machine.docker().import_busybox();
    }
    let fill = "dd if=/dev/zero of=/fill bs=1M count=4000";
    let mut writer = greedy
        .docker()
        .command(["run", "busybox", "sh", "-c", fill])
        .spawn()
        .unwrap();
    // The other one writes as well all the while, a little at a time.
    let steady = "for i in $(seq 30); do dd if=/dev/zero of=/x$((i % 3)) bs=1M count=4 conv=fsync \
                  2>/dev/null || exit 9; sleep 1; done; echo all written";
    let steady = modest
        .docker()
        .command(["run", "busybox", "sh", "-c", steady])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();

    let ended = server.wait_state(greedy.id(), LeaseState::Ended);
    assert_eq!(ended.end_reason, Some(EndReason::DiskFull));
    assert!(!writer.wait().unwrap().success());
    assert_eq!(server.ended(), None, "{}", server.log());
    let written = steady.wait_with_output().unwrap();
    assert!(written.status.success(), "{}", server.log());
    assert_eq!(text(&written.stdout).trim(), "all written");
    let docker = modest.docker();
    docker.ok(["version"]);
    assert_eq!(docker.busybox(&[], ["echo", "still here"]), "still here");
    let lease = server.api().show(modest.id(), 0).unwrap();
    assert_eq!(lease.state, LeaseState::Active);
    assert!(!server.log().contains("the database failed"));
    // There is room for another.
    let third = server.lease();
    third.docker().ok(["version"]);
    for machine in [&modest, &third] {
        server.api().release(machine.id());
    }
    server.wait_clean();
}
