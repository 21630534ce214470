//! Which containers run, asked of the kernel: each runs in a control group of its own, whatever the
//! daemon does or does not answer. The daemons themselves run in the root group.
//!
//! ```text
//! /sys/fs/cgroup/docker/<id>              a container
//! /sys/fs/cgroup/docker/buildkit/<id>     a step of a build
//! /sys/fs/cgroup/<any>                    somebody asked for this parent
//! ```

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Where the kernel shows the groups.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";

/// What the Docker daemon calls the parent of its containers, and below it that of build steps, when
/// there is no systemd.
pub(crate) const DOCKER: &str = "docker";
pub(crate) const BUILDKIT: &str = "buildkit";

/// How many groups are looked at. A tenant may make as many as it likes.
const MAX_GROUPS: usize = 2000;

/// Groups in which processes run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) containers: u32,
    pub(crate) build_steps: u32,
}

/// Counts below `root`.
///
/// # Errors
/// The kernel's, or there are too many groups to look at.
pub(crate) fn running(root: &Path) -> io::Result<Running> {
    let mut running = Running::default();
    let mut budget = MAX_GROUPS;
    for group in populated(root, &mut budget)? {
        if !group.ends_with(DOCKER) {
            running.containers += 1;
            continue;
        }
        let mut found = false;
        for child in unless_gone(populated(&group, &mut budget))? {
            found = true;
            if child.ends_with(BUILDKIT) {
                let steps = unless_gone(populated(&child, &mut budget))?.len().max(1);
                running.build_steps += u32::try_from(steps).unwrap_or(u32::MAX);
            } else {
                running.containers += 1;
            }
        }
        if !found {
            // Somebody runs in the parent itself, or ended just now. One look later will tell.
            running.containers += 1;
        }
    }
    Ok(running)
}

/// The groups right below `parent` in or below which processes run.
fn populated(parent: &Path, budget: &mut usize) -> io::Result<Vec<PathBuf>> {
    let mut groups = Vec::new();
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        *budget = budget
            .checked_sub(1)
            .ok_or_else(|| io::Error::other("too many control groups"))?;
        if is_populated(&entry.path())? {
            groups.push(entry.path());
        }
    }
    Ok(groups)
}

/// A group that was removed since its parent was read has nothing below it.
fn unless_gone(groups: io::Result<Vec<PathBuf>>) -> io::Result<Vec<PathBuf>> {
    match groups {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

fn is_populated(group: &Path) -> io::Result<bool> {
    match std::fs::read_to_string(group.join("cgroup.events")) {
        Ok(events) => Ok(events.lines().any(|line| line == "populated 1")),
        // ENODEV: it was removed after it was opened.
        Err(error)
            if error.kind() == ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::ENODEV) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel shows groups.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            std::fs::write(tree.0.path().join("cgroup.procs"), "1\n").unwrap();
            tree
        }

        fn group(&self, name: &str, populated: u8) {
            let path = self.0.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            let events = format!("populated {populated}\nfrozen 0\n");
            std::fs::write(path.join("cgroup.events"), events).unwrap();
        }

        fn running(&self) -> (u32, u32) {
            let running = running(self.0.path()).unwrap();
            (running.containers, running.build_steps)
        }
    }

    #[test]
    fn containers_and_build_steps_are_counted_while_processes_run_in_them() {
        let tree = Tree::new();
        assert_eq!(tree.running(), (0, 0));
        // Docker leaves its parent group behind when the last container has ended.
        tree.group("docker", 0);
        tree.group("docker/ended", 0);
        assert_eq!(tree.running(), (0, 0));
        tree.group("docker", 1);
        tree.group("docker/one", 1);
        tree.group("docker/two", 1);
        assert_eq!(tree.running(), (2, 0));
        tree.group("docker/buildkit", 1);
        tree.group("docker/buildkit/step", 1);
        tree.group("docker/buildkit/done", 0);
        assert_eq!(tree.running(), (2, 1));
    }

    #[test]
    fn a_container_is_seen_wherever_its_group_was_put() {
        let tree = Tree::new();
        tree.group("mine", 1);
        tree.group("mine/container", 1);
        tree.group("docker", 1);
        assert_eq!(tree.running(), (2, 0));
    }

    #[test]
    fn what_cannot_be_looked_at_is_an_error_and_not_idleness() {
        let tree = Tree::new();
        for number in 0..=MAX_GROUPS {
            std::fs::create_dir(tree.0.path().join(number.to_string())).unwrap();
        }
        assert!(running(tree.0.path()).is_err());
        // A group that ends while it is looked at is none.
        let gone = tree.0.path().join("gone");
        assert!(!is_populated(&gone).unwrap());
        assert!(unless_gone(populated(&gone, &mut 1)).unwrap().is_empty());
        assert!(running(&gone).is_err());
    }
}
