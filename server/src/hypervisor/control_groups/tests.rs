//! Groups in folders that stand for hierarchies, and in this host's own where it has some.

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::*;
use crate::hypervisor::{ImageFiles, Source};

const INSTALL: InstallId = InstallId::from_bits(77);

fn limits() -> GroupLimits {
    GroupLimits {
        memory_overhead_mib: None,
        max_tasks: 256,
        extra_cpu_percent: 100,
    }
}

fn spec(id: u64) -> VmSpec {
    VmSpec {
        id: VmId::from_bits(id),
        source: Source::Cold,
        image: ImageFiles {
            kernel: PathBuf::new(),
            initrd: PathBuf::new(),
            disk: PathBuf::new(),
        },
        vcpus: 2,
        memory_mib: 1024,
        address: None,
        slot: None,
        generation_id: 0,
    }
}

/// A hierarchy of version 2 in a folder.
fn pretended(folder: &TempDir) -> Hierarchy {
    Hierarchy {
        root: folder.path().to_owned(),
        version: Version::Two,
        controllers: Controller::ALL.into(),
    }
}

#[test]
fn a_machine_is_bounded_before_it_is_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let groups = Groups::within(INSTALL, Some(limits()), vec![pretended(&folder)], false);
    groups.place(&spec(1), Accelerator::Tcg, Pid::from_raw(4711));
    let text = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let above = ["", "remote-dockerd/", &format!("remote-dockerd/{INSTALL}/")];
    for group in above {
        let on = text(&format!("{group}cgroup.subtree_control"));
        assert_eq!(on, "+memory +pids +cpu", "{group}");
    }
    let together = (processors() * 100).min(10_000).to_string();
    for group in &above[1..] {
        assert_eq!(text(&format!("{group}cpu.weight")), together);
    }
    let own = format!("remote-dockerd/{INSTALL}/{}", VmId::from_bits(1));
    for (file, value) in [
        ("memory.max", ((1024_u64 + 1536) << 20).to_string()),
        ("pids.max", "256".to_owned()),
        ("cpu.weight", "200".to_owned()),
        ("cpu.max", "300000 100000".to_owned()),
        ("cgroup.procs", "4711".to_owned()),
    ] {
        assert_eq!(text(&format!("{own}/{file}")), value, "{file}");
    }
    assert_eq!(groups.list().unwrap(), [VmId::from_bits(1)].into());
    assert!(groups.has(VmId::from_bits(1)).unwrap());
    assert!(!groups.has(VmId::from_bits(2)).unwrap());
}

#[test]
fn swap_is_no_way_around_the_bound_and_one_that_is_not_taken_costs_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let groups = Groups::within(INSTALL, Some(limits()), vec![pretended(&folder)], false);
    let own = groups
        .folder(&groups.hierarchies[0])
        .join(VmId::from_bits(1).to_string());
    fs::create_dir_all(&own).unwrap();
    fs::write(own.join("memory.swap.max"), "max").unwrap();
    // Nothing can be written there.
    fs::create_dir(own.join("memory.max")).unwrap();
    groups.place(&spec(1), Accelerator::Tcg, Pid::from_raw(4711));
    let text = |name: &str| fs::read_to_string(own.join(name)).unwrap();
    assert_eq!(text("memory.swap.max"), "0");
    assert_eq!(text("pids.max"), "256");
    assert_eq!(text("cgroup.procs"), "4711");
}

#[test]
fn nothing_is_made_for_who_wants_no_bounds_and_what_is_there_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let groups = Groups::within(INSTALL, None, vec![pretended(&folder)], false);
    groups.place(&spec(1), Accelerator::Kvm, Pid::from_raw(4711));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(groups.list().unwrap(), BTreeSet::new());
    groups.remove(VmId::from_bits(1)).unwrap();

    let ours = folder.path().join(TOP).join(INSTALL.to_string());
    let vm = VmId::from_bits(9);
    for name in [&*vm.to_string(), "somebody-elses"] {
        fs::create_dir_all(ours.join(name)).unwrap();
    }
    assert_eq!(groups.list().unwrap(), [vm].into());
    groups.remove(vm).unwrap();
    assert_eq!(groups.list().unwrap(), BTreeSet::new());
    assert!(ours.exists(), "there is another group in it");
    fs::remove_dir(ours.join("somebody-elses")).unwrap();
    groups.remove(vm).unwrap();
    assert!(!folder.path().join(TOP).exists());
}

#[test]
fn what_cannot_be_had_is_given_up_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut nowhere = pretended(&folder);
    nowhere.root = folder.path().join("is-not-there");
    nowhere.controllers = [Controller::Memory].into();
    let mut groups = Groups::within(INSTALL, Some(limits()), vec![nowhere], true);
    let lacking = groups.try_out();
    assert_eq!(lacking.len(), 2, "{lacking:?}");
    assert!(lacking[0].starts_with("memory: "), "{lacking:?}");
    assert!(lacking[0].contains("is-not-there"), "{lacking:?}");
    assert!(lacking[1].contains("tmpfs"), "{lacking:?}");
    assert_eq!(groups.hierarchies, []);
    let mut none = Groups::within(INSTALL, Some(limits()), Vec::new(), false);
    let lacking = none.try_out();
    assert_eq!(
        lacking,
        ["the kernel has no control groups with memory, pids, cpu"]
    );
}

/// A process that does nothing until its input ends.
struct Idle(Child);

impl Idle {
    fn new() -> Self {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// With the kernel's own hierarchies, where this host lets its root use them.
#[test]
fn a_process_is_held_to_its_bounds_by_the_kernel_and_its_group_goes_with_it() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not tried: it takes root");
        return;
    }
    let install = InstallId::from_bits(u64::from(std::process::id()) << 20 | 0xfe);
    let folder = tempfile::tempdir().unwrap();
    let mut groups = Groups::within(install, Some(limits()), find(), false);
    let lacking = groups.try_out();
    if groups.hierarchies.is_empty() {
        eprintln!("not tried: {lacking:?}");
        return;
    }
    let gone = |groups: &Groups| {
        let mut all = groups.hierarchies.iter();
        all.all(|hierarchy| !groups.folder(hierarchy).exists())
    };
    assert!(gone(&groups), "the trial left something");
    drop(folder);

    let (vm, process) = (spec(1), Idle::new());
    let pid = process.0.id();
    groups.place(
        &vm,
        Accelerator::Kvm,
        Pid::from_raw(pid.try_into().unwrap()),
    );
    let own = format!("/{TOP}/{install}/{}", vm.id);
    let seen = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    for hierarchy in &groups.hierarchies {
        let group = groups.folder(hierarchy).join(vm.id.to_string());
        let members = fs::read_to_string(group.join("cgroup.procs")).unwrap();
        assert_eq!(members.trim(), pid.to_string());
        let bounds = Bounds::of(&vm, Accelerator::Kvm, &limits());
        for controller in &hierarchy.controllers {
            for (file, value) in bounds.settings(hierarchy.version, *controller) {
                let kept = fs::read_to_string(group.join(file)).unwrap();
                assert_eq!(kept.trim(), value, "{file}");
            }
        }
    }
    let there = seen.lines().filter(|line| line.ends_with(&own)).count();
    assert_eq!(there, groups.hierarchies.len(), "{seen}");
    // One who lives keeps the group.
    groups.remove(vm.id).unwrap_err();
    drop(process);
    assert_eq!(groups.list().unwrap(), [vm.id].into());
    groups.remove(vm.id).unwrap();
    groups.remove(vm.id).unwrap();
    assert!(!groups.has(vm.id).unwrap() && gone(&groups));
}
