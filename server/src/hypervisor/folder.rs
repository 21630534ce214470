//! The folder of a VM: everything of it that is not on the network. QEMUs may pass through it but not
//! list it or write to it; what a QEMU writes are files of its user that stand ready. Others see nothing.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

use super::HypervisorError;
use super::qemu_user::QemuUser;
use crate::ids::VmId;

/// How much of the end of a console is kept, in bytes.
const CONSOLE_KEEP: u64 = 256 * 1024;

/// Names the files of one VM.
#[derive(Debug, Clone)]
pub(super) struct VmFolder(PathBuf);

impl VmFolder {
    /// The folder of `vm` below the folder of all VMs.
    pub(super) fn new(vms: &Path, vm: VmId) -> Self {
        Self(vms.join(vm.to_string()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The disk, unless the VM is to become a template.
    pub(super) fn disk(&self) -> PathBuf {
        self.0.join("disk.qcow2")
    }

    /// The host's end of the agent's channel.
    pub(super) fn channel(&self) -> PathBuf {
        self.0.join("agent.sock")
    }

    /// What the guest writes to its serial console.
    pub(super) fn console(&self) -> PathBuf {
        self.0.join("console.log")
    }

    /// What tells the kernel of a guest that boots of its processors: see [`super::idle_states`].
    pub(super) fn idle_states(&self) -> PathBuf {
        self.0.join("idle-states.aml")
    }

    /// Makes the folder.
    ///
    /// # Errors
    /// Also when it is there: a VM is started once.
    pub(super) fn create(&self, user: &QemuUser) -> Result<(), HypervisorError> {
        let failed = |error| file_error("create", &self.0, error);
        DirBuilder::new()
            .mode(0o700)
            .create(&self.0)
            .map_err(failed)?;
        user.let_group_in(&self.0, 0o710).map_err(failed)
    }

    /// Removes the folder with everything in it, if it is there.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub(super) fn remove(&self) -> Result<(), HypervisorError> {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(file_error("remove", &self.0, error))
            }
            _ => Ok(()),
        }
    }

    /// Gives back the disk space of all but the end of the console's text. The guest decides how much
    /// it writes there, so the host must decide how much it keeps.
    pub(super) fn trim_console(&self) -> std::io::Result<()> {
        let file = match OpenOptions::new().write(true).open(self.console()) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let data = file.metadata()?;
        // `blocks` counts 512 bytes, whatever the file system's own blocks are.
        if data.blocks() * 512 <= 2 * CONSOLE_KEEP {
            return Ok(());
        }
        let end = data.len().saturating_sub(CONSOLE_KEEP);
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&file, hole, 0, i64::try_from(end).unwrap_or(i64::MAX))?;
        Ok(())
    }

    /// How much of the disk is taken by what is in the folder, in bytes; nothing when it is not there.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(super) fn disk_bytes(&self) -> Result<u64, HypervisorError> {
        let failed = |error| file_error("read", &self.0, error);
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(failed(error)),
        };
        let mut sum = 0;
        for entry in entries {
            // What vanishes meanwhile takes nothing.
            let data = entry.map_err(failed)?.metadata();
            sum += data.map_or(0, |data| data.blocks() * 512);
        }
        Ok(sum)
    }
}

/// The VMs that have a folder.
///
/// # Errors
/// When the folder of all VMs cannot be read.
pub(super) fn list(vms: &Path) -> Result<BTreeSet<VmId>, HypervisorError> {
    let failed = |error| file_error("read", vms, error);
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(vms).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<VmId>().ok()));
    }
    Ok(found)
}

/// Makes a file that QEMU may write to and nobody else may read.
///
/// # Errors
/// Also when it is there.
pub(super) fn create_for_qemu(
    path: &Path,
    length: u64,
    user: &QemuUser,
) -> Result<(), HypervisorError> {
    let failed = |error| file_error("create", path, error);
    let file = create_own(path).map_err(failed)?;
    file.set_len(length).map_err(failed)?;
    user.give(path, 0o600).map_err(failed)
}

/// Makes a file that QEMU may read.
///
/// # Errors
/// Also when it is there.
pub(super) fn write_for_qemu(
    path: &Path,
    content: &[u8],
    user: &QemuUser,
) -> Result<(), HypervisorError> {
    let failed = |error| file_error("create", path, error);
    let mut file = create_own(path).map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    user.let_group_in(path, 0o440).map_err(failed)
}

/// Makes a file that is only the server's, as long as nobody else is given it.
fn create_own(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// An error about a file; a full disk is one of its own.
pub(super) fn file_error(
    doing: &'static str,
    path: &Path,
    source: std::io::Error,
) -> HypervisorError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => HypervisorError::DiskFull { path },
        _ => HypervisorError::File {
            doing,
            path,
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::super::tail;
    use super::*;

    #[test]
    fn only_names_of_vms_are_listed() {
        let vms = tempfile::tempdir().unwrap();
        let vm = VmId::from_bits(9);
        for name in [vm.to_string().as_str(), "lost+found", "vm-9", "vm-"] {
            std::fs::create_dir(vms.path().join(name)).unwrap();
        }
        assert_eq!(list(vms.path()).unwrap(), BTreeSet::from([vm]));
        let folder = VmFolder::new(vms.path(), vm);
        std::fs::write(folder.disk(), b"x").unwrap();
        folder.remove().unwrap();
        folder.remove().unwrap();
        assert!(list(vms.path()).unwrap().is_empty());
    }

    #[test]
    fn a_flooded_console_keeps_its_end_and_gives_the_rest_back() {
        let vms = tempfile::tempdir().unwrap();
        let folder = VmFolder::new(vms.path(), VmId::from_bits(9));
        folder.trim_console().unwrap();
        std::fs::create_dir(folder.path()).unwrap();
        let mut text = vec![b'x'; 4 * usize::try_from(CONSOLE_KEEP).unwrap()];
        text.extend(b"the end");
        std::fs::write(folder.console(), &text).unwrap();
        folder.trim_console().unwrap();
        let data = std::fs::metadata(folder.console()).unwrap();
        assert_eq!(
            data.len(),
            text.len() as u64,
            "the writer's place in it stays"
        );
        assert!(data.blocks() * 512 <= 2 * CONSOLE_KEEP, "{}", data.blocks());
        assert_eq!(tail::of(None, &folder.console(), 10), "xxthe end\n");
    }

    #[test]
    fn a_folder_takes_what_is_allocated_and_not_what_it_claims() {
        let vms = tempfile::tempdir().unwrap();
        let folder = VmFolder::new(vms.path(), VmId::from_bits(9));
        assert_eq!(folder.disk_bytes().unwrap(), 0);
        std::fs::create_dir(folder.path()).unwrap();
        std::fs::write(folder.console(), vec![b'x'; 100_000]).unwrap();
        let disk = File::create(folder.disk()).unwrap();
        disk.set_len(1 << 40).unwrap();
        disk.write_all_at(&[7; 50_000], 1 << 30).unwrap();
        let taken = folder.disk_bytes().unwrap();
        assert!((150_000..1_000_000).contains(&taken), "{taken}");
    }

    #[test]
    fn a_full_disk_has_a_message_of_its_own() {
        let path = Path::new("/state/vms/x");
        let full = std::io::Error::from_raw_os_error(nix::libc::ENOSPC);
        assert!(matches!(
            file_error("create", path, full),
            HypervisorError::DiskFull { .. }
        ));
        let denied = std::io::Error::from_raw_os_error(nix::libc::EACCES);
        assert!(matches!(
            file_error("create", path, denied),
            HypervisorError::File { .. }
        ));
    }
}
