//! The first life: load the disk's driver, mount the disk, move there. Everything that the image
//! recipe put into the initramfs beside this binary lies in [`MODULES`].

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot, execv};

use crate::console::{self, say};
use crate::mounts;

/// The second life, on the disk.
pub(crate) const AGENT: &str = "/usr/sbin/guest-agent";

/// Decompressed kernel modules. Their names sort in the order in which they must be loaded.
const MODULES: &str = "/modules";

/// The whole disk is the root file system: no partition table.
const DISK: &str = "/dev/vda";
const NEW_ROOT: &str = "/newroot";

/// How long the disk may take to appear. Drivers find it while they are loaded.
const DISK_PATIENCE: Duration = Duration::from_secs(10);
const DISK_POLL: Duration = Duration::from_millis(2);

/// Moves to the disk and becomes [`AGENT`] there.
///
/// # Errors
/// Whatever keeps it from that; the guest cannot live without its disk.
pub(crate) fn run() -> anyhow::Result<Infallible> {
    mounts::device_files()?;
    console::attach();
    load_modules(Path::new(MODULES))?;
    wait_for_disk(Path::new(DISK))?;
    mount_disk()?;
    switch_root()?;
    let agent = CString::new(AGENT)?;
    execv(&agent, &[&agent]).with_context(|| format!("cannot run {AGENT} of the image"))
}

fn load_modules(folder: &Path) -> anyhow::Result<()> {
    let mut modules = match std::fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()?,
        // A kernel with the driver built in needs none.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context(format!("cannot read {}", folder.display())),
    };
    modules.sort();
    for path in modules {
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(error) => bail!("the kernel refuses {}: {error}", path.display()),
        }
    }
    Ok(())
}

fn wait_for_disk(disk: &Path) -> anyhow::Result<()> {
    let started = Instant::now();
    while !disk.exists() {
        if started.elapsed() > DISK_PATIENCE {
            bail!(
                "no {} after {} s: the machine has no virtio disk, or the initramfs lacks its driver",
                disk.display(),
                DISK_PATIENCE.as_secs()
            );
        }
        std::thread::sleep(DISK_POLL);
    }
    Ok(())
}

fn mount_disk() -> anyhow::Result<()> {
    std::fs::create_dir_all(NEW_ROOT).with_context(|| format!("cannot make {NEW_ROOT}"))?;
    // Nothing outlives the machine, so access times are of no use; and the kernel need not zero in
    // the background the inode tables that a sparse image file already reads as zero, which would be
    // writing in a machine that is to be copied.
    mount(
        Some(DISK),
        NEW_ROOT,
        Some("ext4"),
        MsFlags::MS_NOATIME,
        Some("noinit_itable"),
    )
    .with_context(|| format!("cannot mount {DISK} as ext4"))
}

/// Makes the disk `/`. The initramfs is emptied first: it is memory that nobody could free later.
fn switch_root() -> anyhow::Result<()> {
    let devices = PathBuf::from(NEW_ROOT).join("dev");
    mount(
        Some("/dev"),
        &devices,
        None::<&str>,
        MsFlags::MS_MOVE,
        None::<&str>,
    )
    .context("cannot move /dev to the disk")?;
    for leftover in ["/init", MODULES] {
        let path = Path::new(leftover);
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(path)
        } else {
            std::fs::remove_file(path)
        };
        if let Err(error) = removed {
            say!("{leftover} stays in memory: {error}");
        }
    }
    chdir(NEW_ROOT).with_context(|| format!("cannot enter {NEW_ROOT}"))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .context("cannot move the disk to /")?;
    chroot(".").context("cannot make the disk the root")?;
    chdir("/").context("cannot enter the new root")
}
