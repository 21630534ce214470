//! Where this host has which controller: in a hierarchy of its own (version 1), in the one of all (version
//! 2), or in a mixture of both. Pure.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a controller bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::hypervisor) enum Controller {
    /// Memory, page cache included.
    Memory,
    /// Processes and threads.
    Pids,
    /// Time on the processors.
    Cpu,
}

impl Controller {
    /// All that are of use here.
    pub(in crate::hypervisor) const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    /// The kernel's name of it.
    pub(in crate::hypervisor) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}

/// The two versions of the kernel's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hypervisor) enum Version {
    /// A hierarchy for each controller or for some of them.
    One,
    /// One hierarchy for all, in which a group switches controllers on for its children.
    Two,
}

/// A tree of groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hypervisor) struct Hierarchy {
    /// The folder of its first group that is seen here.
    pub(in crate::hypervisor) root: PathBuf,
    pub(in crate::hypervisor) version: Version,
    /// What can be bounded in it.
    pub(in crate::hypervisor) controllers: BTreeSet<Controller>,
}

/// The hierarchies of these mounts, as in `/proc/self/mountinfo`, that have a controller which no earlier one
/// has. `offered` answers the text of `cgroup.controllers` of a mount of version 2.
pub(super) fn hierarchies(mountinfo: &str, offered: impl Fn(&Path) -> String) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for mount in mountinfo.lines().filter_map(mount) {
        let names = match mount.version {
            Version::One => mount.options.to_owned(),
            Version::Two => offered(&mount.root),
        };
        let has = |controller: &Controller| {
            let names = names.split([',', ' ', '\n']);
            names.into_iter().any(|name| name == controller.name())
                && !found
                    .iter()
                    .any(|other| other.controllers.contains(controller))
        };
        let controllers: BTreeSet<Controller> = Controller::ALL.into_iter().filter(has).collect();
        if !controllers.is_empty() {
            found.push(Hierarchy {
                root: mount.root,
                version: mount.version,
                controllers,
            });
        }
    }
    found
}

struct Mount<'t> {
    root: PathBuf,
    version: Version,
    options: &'t str,
}

/// A line of the form `36 35 98:0 /root /mount/point options - type source super-options`. Paths with
/// characters that are written in another way there are none of the usual ones, and are passed over.
fn mount(line: &str) -> Option<Mount<'_>> {
    let (place, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    let version = match kind.next()? {
        "cgroup" => Version::One,
        "cgroup2" => Version::Two,
        _ => return None,
    };
    let root = place.split(' ').nth(4)?;
    (!root.contains('\\')).then(|| Mount {
        root: root.into(),
        version,
        options: kind.nth(1).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(mountinfo: &str, offered: &str) -> Vec<(String, Version, Vec<&'static str>)> {
        hierarchies(mountinfo, |_| offered.to_owned())
            .into_iter()
            .map(|hierarchy| {
                let names = hierarchy.controllers.into_iter().map(Controller::name);
                let root = hierarchy.root.display().to_string();
                (root, hierarchy.version, names.collect())
            })
            .collect()
    }

    #[test]
    fn a_host_with_one_hierarchy() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let all = vec!["memory", "pids", "cpu"];
        assert_eq!(
            found(mounts, "cpuset cpu io memory hugetlb pids\n"),
            [("/sys/fs/cgroup".to_owned(), Version::Two, all)]
        );
        assert_eq!(found(mounts, "hugetlb\n"), []);
        assert_eq!(found("", "memory"), []);
    }

    #[test]
    fn a_host_with_a_hierarchy_for_each_and_one_of_all_beside_them() {
        let mounts = "31 22 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      32 22 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      33 22 0:29 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                      34 22 0:30 / /sys/fs/cgroup/memory rw shared:1 - cgroup cgroup rw,memory\n\
                      35 22 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      36 22 0:32 / /odd\\040place rw - cgroup cgroup rw,pids\n\
                      37 22 0:28 / /again rw - cgroup cgroup rw,cpu,cpuacct\n";
        let place = |name: &str| format!("/sys/fs/cgroup/{name}");
        let one = [
            (place("cpu,cpuacct"), Version::One, vec!["cpu"]),
            (place("memory"), Version::One, vec!["memory"]),
        ];
        assert_eq!(found(mounts, "hugetlb\n"), one);
        let mut with_two = vec![(place("unified"), Version::Two, vec!["pids"])];
        with_two.extend(one);
        assert_eq!(found(mounts, "pids\n"), with_two);
    }
}
