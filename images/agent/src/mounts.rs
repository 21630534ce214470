//! The kernel's file systems, where programs expect them.

use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use anyhow::Context;
use nix::mount::{MsFlags, mount};

use crate::console::say;

/// Does a miss end the boot?
#[derive(PartialEq, Eq)]
enum Need {
    Must,
    /// Not every kernel has it.
    May,
}

struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    data: &'static str,
    need: Need,
}

const SAFE: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);
const DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);
const FILES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

const fn must(
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    data: &'static str,
) -> Mount {
    Mount {
        kind,
        target,
        flags,
        data,
        need: Need::Must,
    }
}

const fn may(kind: &'static str, target: &'static str, flags: MsFlags) -> Mount {
    Mount {
        kind,
        target,
        flags,
        data: "",
        need: Need::May,
    }
}

/// In this order: some targets lie in an earlier one.
const MOUNTS: &[Mount] = &[
    must("proc", "/proc", SAFE, ""),
    must("sysfs", "/sys", SAFE, ""),
    must("devpts", "/dev/pts", DEVICES, "gid=5,mode=620,ptmxmode=666"),
    must("tmpfs", "/dev/shm", FILES, "mode=1777"),
    may("mqueue", "/dev/mqueue", SAFE),
    must("tmpfs", "/run", FILES, "mode=755,size=20%"),
    must("tmpfs", "/tmp", FILES, "mode=1777,size=25%"),
    must(
        "cgroup2",
        "/sys/fs/cgroup",
        SAFE,
        "nsdelegate,memory_recursiveprot",
    ),
    may("bpf", "/sys/fs/bpf", SAFE),
    may("securityfs", "/sys/kernel/security", SAFE),
];

/// What udev would link.
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Mounts `/dev`, unless it is there already.
///
/// # Errors
/// The kernel's.
pub(crate) fn device_files() -> anyhow::Result<()> {
    mount_one(&must("devtmpfs", "/dev", DEVICES, "mode=755"))
}

/// Mounts everything that the second life and Docker need.
///
/// # Errors
/// The first mount that failed and is needed.
pub(crate) fn all() -> anyhow::Result<()> {
    device_files()?;
    for entry in MOUNTS {
        match mount_one(entry) {
            Ok(()) => {}
            Err(error) if entry.need == Need::May => say!("{error:#}: going on without"),
            Err(error) => return Err(error),
        }
    }
    // As on any system that Docker knows: a volume with `:shared` needs a shared root.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SHARED,
        None::<&str>,
    )
    .context("cannot make / shared")?;
    for (to, link) in LINKS {
        match symlink(to, link) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                say!("cannot link {link}: {error}");
            }
            _ => {}
        }
    }
    delegate_controllers(Path::new("/sys/fs/cgroup"))
}

fn mount_one(entry: &Mount) -> anyhow::Result<()> {
    let target = Path::new(entry.target);
    if is_mount_point(target) {
        return Ok(());
    }
    // sysfs makes the folder itself where the kernel knows the file system, and refuses otherwise.
    let _ = std::fs::create_dir_all(target);
    mount(
        Some(entry.kind),
        target,
        Some(entry.kind),
        entry.flags,
        Some(entry.data),
    )
    .with_context(|| format!("cannot mount {} on {}", entry.kind, entry.target))
}

fn is_mount_point(path: &Path) -> bool {
    let (Ok(own), Some(Ok(parent))) = (path.metadata(), path.parent().map(Path::metadata)) else {
        return false;
    };
    own.dev() != parent.dev()
}

/// Lets every child group use every controller that the kernel has.
fn delegate_controllers(root: &Path) -> anyhow::Result<()> {
    let file = root.join("cgroup.controllers");
    let controllers = std::fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}", file.display()))?;
    for controller in controllers.split_whitespace() {
        if let Err(error) = std::fs::write(
            root.join("cgroup.subtree_control"),
            format!("+{controller}"),
        ) {
            say!("cgroup controller {controller} is not available: {error}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_told_from_a_folder() {
        assert!(is_mount_point(Path::new("/proc")));
        assert!(!is_mount_point(Path::new("/proc/self/")));
        assert!(!is_mount_point(Path::new("/no/such/folder")));
    }

    #[test]
    fn a_target_inside_another_comes_after_it() {
        for (at, entry) in MOUNTS.iter().enumerate() {
            for later in &MOUNTS[at + 1..] {
                assert!(
                    !Path::new(entry.target).starts_with(later.target),
                    "{} would be hidden by {}",
                    entry.target,
                    later.target
                );
            }
        }
    }
}
