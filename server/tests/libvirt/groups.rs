//! The control groups of machines, with the kernel's own.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use remote_dockerd::hypervisor::{GroupLimits, Hypervisor, Source};
use remote_dockerd::ids::VmId;

use super::bench::Bench;

fn limits() -> GroupLimits {
    GroupLimits {
        memory_overhead_mib: Some(700),
        max_tasks: 200,
        extra_cpu_percent: 50,
    }
}

async fn bounded() -> Bench {
    Bench::open_changed(|config| config.group_limits = Some(limits())).await
}

/// Which of the controllers that count this host lets its root use, in either version.
fn controllers() -> BTreeSet<&'static str> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let offered = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let has = |name: &&str| {
        let of_one = |line: &str| {
            let options = line.split_once(" - cgroup ").map(|(_, rest)| rest);
            options.is_some_and(|it| it.split([',', ' ']).any(|word| word == *name))
        };
        mounts.lines().any(of_one) || offered.split_whitespace().any(|word| word == *name)
    };
    ["memory", "pids", "cpu"].into_iter().filter(has).collect()
}

/// The value of a file in whichever of the machine's groups has it.
fn value(groups: &[PathBuf], vm: VmId, names: [&str; 2]) -> Option<String> {
    let own = groups.iter().filter(|path| path.ends_with(vm.to_string()));
    let files = own.flat_map(|group| names.map(|name| group.join(name)));
    let text = files
        .filter_map(|file| fs::read_to_string(file).ok())
        .next()?;
    Some(text.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_is_in_a_group_of_its_own_as_long_as_it_is_there() {
    let bench = bounded().await;
    let controllers = controllers();
    assert!(
        !controllers.is_empty(),
        "NOT RUN: this test takes a host with control groups"
    );
    let specs = [0, 1].map(|number| bench.spec(number, Source::Cold));
    for spec in &specs {
        bench.libvirt.start(spec).await.unwrap();
    }
    let groups = bench.groups();
    for spec in &specs {
        let pid = bench.pid(spec.id);
        let own: Vec<_> = groups
            .iter()
            .filter(|path| path.ends_with(spec.id.to_string()))
            .collect();
        assert!(!own.is_empty(), "{groups:?}");
        for group in own {
            // All threads of it, and nobody else.
            let members = fs::read_to_string(group.join("cgroup.procs")).unwrap();
            assert_eq!(members.trim(), pid, "{}", group.display());
        }
        for (controller, names, expected) in [
            (
                "memory",
                ["memory.max", "memory.limit_in_bytes"],
                ((256_u64 + 700) << 20).to_string(),
            ),
            ("pids", ["pids.max", "pids.max"], "200".to_owned()),
        ] {
            if controllers.contains(controller) {
                assert_eq!(value(&groups, spec.id, names), Some(expected));
            }
        }
        if controllers.contains("cpu") {
            let most = value(&groups, spec.id, ["cpu.max", "cpu.cfs_quota_us"]).unwrap();
            assert_eq!(most.split(' ').next(), Some("150000"));
        }
    }
    let gone = specs[0].id;
    assert!(bench.libvirt.shows(gone).await.unwrap());
    bench.libvirt.destroy(gone).await.unwrap();
    assert!(!bench.libvirt.shows(gone).await.unwrap());
    let left = bench.groups();
    assert_eq!(left.len(), groups.len() / 2, "{left:?}");
    assert!(
        left.iter()
            .all(|path| path.ends_with(specs[1].id.to_string()))
    );

    // As a server finds it that was killed between the two: the machine is gone and its group is not.
    let stale: BTreeSet<PathBuf> = left
        .iter()
        .map(|path| path.with_file_name(gone.to_string()))
        .collect();
    for group in &stale {
        fs::create_dir(group).unwrap();
    }
    let observed = bench.libvirt.list().await.unwrap();
    assert_eq!(observed.remnants, BTreeSet::from([gone]));
    assert!(bench.libvirt.shows(gone).await.unwrap());
    for spec in &specs {
        bench.libvirt.destroy(spec.id).await.unwrap();
    }
    assert_eq!(bench.groups(), Vec::<PathBuf>::new());
    assert!(stale.iter().all(|group| !group.parent().unwrap().exists()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_limits_there_is_no_group() {
    let bench = Bench::open().await;
    let spec = bench.spec(0, Source::Cold);
    bench.libvirt.start(&spec).await.unwrap();
    assert_eq!(bench.groups(), Vec::<PathBuf>::new());
    bench.libvirt.destroy(spec.id).await.unwrap();
}
