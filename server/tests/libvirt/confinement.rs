//! What a guest that has broken out of its QEMU would have: the rights of that process, and no others.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use remote_dockerd::hypervisor::{Hypervisor, Source, TemplateFiles, UidChoice};
use remote_dockerd::ids::VmId;

use super::bench::Bench;

/// What the kernel says about a process or a thread.
struct Status(String);

impl Status {
    fn of(path: &Path) -> Self {
        Self(fs::read_to_string(path.join("status")).unwrap())
    }

    fn field(&self, name: &str) -> Vec<&str> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {}", self.0));
        line.trim_start_matches(':').split_whitespace().collect()
    }
}

fn process(bench: &Bench, vm: VmId) -> PathBuf {
    Path::new("/proc").join(bench.pid(vm))
}

fn group(name: &str) -> Option<String> {
    let group = nix::unistd::Group::from_name(name).unwrap();
    group.map(|group| group.gid.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qemu_has_a_user_of_its_own_no_rights_and_few_system_calls() {
    let bench = Bench::open().await;
    let specs = [0, 1].map(|number| bench.spec(number, Source::Cold));
    let mut users = BTreeSet::new();
    for spec in &specs {
        bench.libvirt.start(spec).await.unwrap();
        let process = process(&bench, spec.id);
        let status = Status::of(&process);
        let ids = status.field("Uid");
        assert!(ids.iter().all(|id| id == &ids[0]), "{ids:?}");
        assert!(ids[0].parse::<u32>().unwrap() >= 1_879_048_192, "{ids:?}");
        users.insert(status.field("Uid")[0].to_owned());
        let allowed: Vec<String> = ["libvirt-qemu", "kvm"]
            .into_iter()
            .filter_map(group)
            .collect();
        let mut groups = status.field("Groups");
        groups.extend(status.field("Gid"));
        assert!(
            groups.iter().all(|id| allowed.iter().any(|it| it == id)),
            "{groups:?}"
        );
        for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status.field(name), ["0000000000000000"], "{name}");
        }
        // Every thread: a filter that one of them lacks filters nothing.
        for thread in fs::read_dir(process.join("task")).unwrap() {
            let thread = Status::of(&thread.unwrap().path());
            assert_eq!(thread.field("Seccomp"), ["2"], "{}", thread.0);
            assert_eq!(thread.field("NoNewPrivs"), ["1"], "{}", thread.0);
        }
        let command = fs::read_to_string(process.join("cmdline")).unwrap();
        let words: Vec<&str> = command.split('\0').collect();
        let sandbox = words.iter().position(|word| *word == "-sandbox").unwrap();
        for part in [
            "on",
            "obsolete=deny",
            "elevateprivileges=deny",
            "spawn=deny",
            "resourcecontrol=deny",
        ] {
            assert!(
                words[sandbox + 1].split(',').any(|it| it == part),
                "no {part}: {words:?}"
            );
        }
        let limits = fs::read_to_string(process.join("limits")).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        assert_eq!(
            core.unwrap().split_whitespace().nth(4),
            Some("0"),
            "{limits}"
        );
        let own = format!("{}", bench.state.path().display());
        // Nothing of the host is shared into the guest.
        for word in ["-fsdev", "virtfs", "vhost-user", "-virtfs", "vfio"] {
            assert!(!command.contains(word), "{word}: {command}");
        }
        assert!(command.contains(&own));
    }
    assert_eq!(users.len(), 2, "{users:?}");
    for spec in &specs {
        bench.libvirt.destroy(spec.id).await.unwrap();
    }
}

/// What a process with the rights of `vm`'s QEMU can read or write below the state folder, and whether it
/// gets at the memory of `other`'s QEMU.
fn reached(bench: &Bench, vm: VmId, other: VmId) -> BTreeSet<String> {
    let status = Status::of(&process(bench, vm));
    let state = bench.state.path();
    let mut paths = Vec::new();
    walk(state, &mut paths);
    let mut probe = Command::new("setpriv");
    probe.args(["--inh-caps=-all", "--bounding-set=-all"]);
    probe.arg(format!("--reuid={}", status.field("Uid")[0]));
    probe.arg(format!("--regid={}", status.field("Gid")[0]));
    probe.arg(format!("--groups={}", status.field("Groups").join(",")));
    // The shell asks the kernel with the rights it has; a socket that can be written to can be connected to.
    // Last, whether it may do to the other process what a debugger may.
    let script = "while read -r path; do\n\
                  if [ -r \"$path\" ] && [ -f \"$path\" ]; then echo \"reads $path\"; fi\n\
                  if [ -w \"$path\" ]; then echo \"writes $path\"; fi\n\
                  done\n\
                  if head -c 1 \"/proc/$0/environ\" >/dev/null 2>&1; then echo debugs; fi\n\
                  if kill -0 \"$0\" 2>/dev/null; then echo kills; fi";
    probe.args(["sh", "-c", script, &bench.pid(other)]);
    let mut probe = probe
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = probe.stdin.take().unwrap();
    for path in paths {
        writeln!(input, "{}", path.display()).unwrap();
    }
    drop(input);
    let output = probe.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let shorten = |line: &str| line.replace(&format!("{}/", state.display()), "");
    text.lines().map(shorten).collect()
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let is_folder = entry.file_type().unwrap().is_dir();
        paths.push(entry.path());
        if is_folder {
            walk(&entry.path(), paths);
        }
    }
}

/// A template and two clones of it.
async fn two_clones(bench: &Bench) -> [VmId; 2] {
    let folder = bench.state.path().join("template");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let files = TemplateFiles::in_folder(&folder);
    let template = bench.spec(0, Source::Template(files.clone()));
    bench.libvirt.start(&template).await.unwrap();
    super::boot_id(&bench.libvirt, template.id).await;
    bench.libvirt.snapshot(template.id, &files).await.unwrap();
    bench.libvirt.destroy(template.id).await.unwrap();
    let mut clones = Vec::new();
    for number in [1, 2] {
        let clone = bench.spec(number, Source::Clone(files.clone()));
        bench.libvirt.start(&clone).await.unwrap();
        clones.push(clone.id);
    }
    clones.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_qemu_reaches_nothing_of_another() {
    let bench = Bench::open().await;
    let [one, other] = two_clones(&bench).await;
    let reached = reached(&bench, one, other);
    let expected: BTreeSet<String> = [
        // What all clones share is read-only.
        "reads template/memory".to_owned(),
        "reads template/devices".to_owned(),
        "reads template/disk.qcow2".to_owned(),
        format!("reads vms/{one}/disk.qcow2"),
        format!("writes vms/{one}/disk.qcow2"),
        // What libvirt makes for it alone.
        format!("writes libvirt/lib/qemu/domain-2-{one}"),
        format!("reads libvirt/lib/qemu/domain-2-{one}/master-key.aes"),
        format!("writes libvirt/lib/qemu/domain-2-{one}/master-key.aes"),
        format!("writes libvirt/run/qemu/channel/2-{one}"),
        // Numbers of processes, which are no secret.
        "reads libvirt/run/qemu/driver.pid".to_owned(),
        format!("reads libvirt/run/qemu/{one}.pid"),
        format!("reads libvirt/run/qemu/{other}.pid"),
    ]
    .into();
    assert_eq!(reached, expected);
    for vm in [one, other] {
        bench.libvirt.destroy(vm).await.unwrap();
    }
}

/// The same probe succeeds where all have one user: that is what the users of their own are for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_user_for_all_one_qemu_reaches_another() {
    let bench = Bench::open_with(UidChoice::Shared).await;
    let [one, other] = two_clones(&bench).await;
    let reached = reached(&bench, one, other);
    for what in [
        format!("writes vms/{other}/disk.qcow2"),
        "debugs".to_owned(),
        "kills".to_owned(),
    ] {
        assert!(reached.contains(&what), "no {what} in {reached:?}");
    }
    for vm in [one, other] {
        bench.libvirt.destroy(vm).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_has_no_devices_but_those_it_needs() {
    let bench = Bench::open().await;
    let spec = bench.spec(0, Source::Cold);
    bench.libvirt.start(&spec).await.unwrap();
    let connect = bench.somebody_else();
    let domain = connect.lookup_domain_by_name(&spec.id.to_string());
    let domain = domain.unwrap();
    let human = virt::sys::VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP;
    let tree = domain.qemu_monitor_command("info qtree", human).unwrap();
    let found: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("dev: ")?.split(',').next())
        .collect();
    // The parts of every PC that cannot be left out; the serial console; what kernel and command line come
    // through; and the four that the server gives it.
    let needed = BTreeSet::from([
        "q35-pcihost",
        "mch",
        "ICH9-LPC",
        "ioapic",
        "isa-i8259",
        "isa-pit",
        "isa-pcspk",
        "i8257",
        "kvmvapic",
        "mc146818rtc",
        "isa-serial",
        "fw_cfg_io",
        "virtio-blk-pci-non-transitional",
        "virtio-blk-device",
        "virtio-net-pci-non-transitional",
        "virtio-net-device",
        "virtio-serial-pci-non-transitional",
        "virtio-serial-device",
        "virtserialport",
        "virtio-rng-pci-non-transitional",
        "virtio-rng-device",
    ]);
    assert_eq!(found, needed);
    bench.libvirt.destroy(spec.id).await.unwrap();
}
