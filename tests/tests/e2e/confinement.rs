//! What a machine can see of its host, and what other users of the host can see of a machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use e2e::TestServer;
use e2e::process::succeed;

#[test]
fn other_users_of_the_host_can_read_nothing_that_is_the_servers() {
    let server = TestServer::start();
    let machine = server.lease();
    machine.docker().ok(["version"]);
    let mut paths = Vec::new();
    walk(&server.state(), &mut paths);
    assert!(
        paths.iter().any(|path| path.ends_with("disk.qcow2"))
            && paths.iter().any(|path| path.ends_with("agent.sock")),
        "{paths:?}"
    );
    let nobody = open_to(
        &paths,
        &["--reuid=65534", "--regid=65534", "--clear-groups"],
    );
    assert_eq!(nobody, BTreeSet::new());
    // The same probe finds them with root's rights.
    let root = open_to(&paths, &[]);
    for name in ["disk.qcow2", "agent.sock", "memory", "state.db", "token"] {
        assert!(
            root.iter().any(|path| path.ends_with(name)),
            "no {name} in {root:?}"
        );
    }
}

/// The files among `paths` that may be read or written with the rights that `setpriv` is told, and the
/// folders that may be listed or changed.
fn open_to(paths: &[PathBuf], rights: &[&str]) -> BTreeSet<String> {
    let script = "while read -r path; do\n\
                  if [ -r \"$path\" ] || [ -w \"$path\" ]; then echo \"$path\"; fi\n\
                  done";
    let mut probe = Command::new("setpriv")
        .args(rights)
        .args(["sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let list: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let mut input = probe.stdin.take().unwrap();
    std::thread::spawn(move || {
        use std::io::Write;
        input.write_all((list.join("\n") + "\n").as_bytes())
    });
    let output = probe.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        paths.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), paths);
        }
    }
}

#[test]
fn a_machine_sees_five_devices_and_nothing_of_its_host() {
    let server = TestServer::start();
    let cli = server.cli();
    let lease: serde_json::Value =
        serde_json::from_str(&cli.ok(["start", "--format", "json"])).unwrap();
    let id = lease["lease_id"].as_str().unwrap();
    let ssh = |script: &str| succeed(&mut cli.command(["ssh", "--lease", id, "--", script]));

    let devices = ssh(
        "cd /sys/bus/pci/devices && for d in *; do echo $(cat $d/vendor $d/device $d/class); done",
    );
    let found: Vec<&str> = devices.lines().collect();
    assert_eq!(
        found,
        [
            // The two bridges of every PC. What lies between speaks the modern language of such devices only.
            "0x8086 0x29c0 0x060000",
            "0x1af4 0x1042 0x010000",
            "0x1af4 0x1041 0x020000",
            "0x1af4 0x1043 0x078000",
            "0x1af4 0x1044 0x00ff00",
            "0x8086 0x2918 0x060100",
        ]
    );

    // Everything through which a machine is told something: firmware's tables, what QEMU passes, names of
    // devices, the kernel's command line and what it logged of all that.
    let told = ssh(
        "modprobe qemu_fw_cfg 2>/dev/null; { dmesg; cat /proc/cmdline; cat /sys/firmware/qemu_fw_cfg/by_name/*/*/raw \
         /sys/firmware/acpi/tables/* /sys/firmware/dmi/tables/* /sys/class/dmi/id/*; \
         cat /sys/class/virtio-ports/*/name /sys/block/*/serial; } 2>/dev/null | tr '\\0' '\\n'",
    );
    assert!(told.contains("root=/dev/vda"), "nothing was found: {told}");
    let install = server.host().namespace().unwrap();
    let folders = [server.root(), server.setting().images.as_path()];
    let mut hidden: Vec<String> = folders
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    hidden.push(install.trim_start_matches("rd-").to_owned());
    hidden.push(succeed(Command::new("uname").arg("-n")));
    for word in hidden.iter().filter(|word| word.len() > 3) {
        assert!(!told.contains(word.as_str()), "the machine is told {word}");
    }
    cli.ok(["stop", id]);
}

#[test]
fn the_guest_is_as_hard_as_its_document_says() {
    let server = TestServer::start();
    let cli = server.cli();
    let lease: serde_json::Value =
        serde_json::from_str(&cli.ok(["start", "--format", "json"])).unwrap();
    let id = lease["lease_id"].as_str().unwrap();
    let ssh = |script: &str| succeed(&mut cli.command(["ssh", "--lease", id, "--", script]));

    let settings = ssh(
        "cd /proc/sys && grep . fs/protected_{symlinks,hardlinks,fifos,regular} kernel/kptr_restrict \
         kernel/unprivileged_bpf_disabled net/ipv4/conf/{all,default}/accept_{redirects,source_route} \
         net/ipv6/conf/all/disable_ipv6",
    );
    let found: BTreeSet<&str> = settings.lines().collect();
    let wanted = BTreeSet::from([
        "fs/protected_symlinks:1",
        "fs/protected_hardlinks:1",
        "fs/protected_fifos:1",
        "fs/protected_regular:2",
        "kernel/kptr_restrict:1",
        "kernel/unprivileged_bpf_disabled:2",
        "net/ipv4/conf/all/accept_redirects:0",
        "net/ipv4/conf/default/accept_redirects:0",
        "net/ipv4/conf/all/accept_source_route:0",
        "net/ipv4/conf/default/accept_source_route:0",
        "net/ipv6/conf/all/disable_ipv6:1",
    ]);
    assert_eq!(found, wanted);

    let files = ssh(
        "stat -c '%n %U:%G %a' /etc/docker /etc/docker/daemon.json /run/docker.sock /run/containerd/containerd.sock",
    );
    assert_eq!(
        files.lines().collect::<Vec<_>>(),
        [
            "/etc/docker root:root 755",
            "/etc/docker/daemon.json root:root 644",
            "/run/docker.sock root:docker 660",
            "/run/containerd/containerd.sock root:root 660",
        ]
    );
    // It runs no machines of its own unless the site says so.
    assert_eq!(ssh("grep -cwE 'vmx|svm' /proc/cpuinfo || true"), "0");
    assert_eq!(ssh("ls /dev | grep -x kvm || true"), "");

    // Nobody is in the group, nobody but the agent listens, and Docker has none but its socket.
    assert_eq!(ssh("grep '^docker:' /etc/group | cut -d: -f4"), "");
    let listening = ssh("ss -Hltn | awk '{ print $4 }'");
    assert!(
        listening.ends_with(":2376") && listening.lines().count() == 1,
        "{listening}"
    );
    let docker = ssh(
        "docker info --format '{{.Driver}} {{.LiveRestoreEnabled}} {{.ExperimentalBuild}} {{.SecurityOptions}}'",
    );
    assert!(docker.starts_with("overlay2 false false"), "{docker}");
    assert!(docker.contains("name=seccomp"), "{docker}");
    cli.ok(["stop", id]);
}
