//! The user that QEMU runs as, and what it may do to files. libvirt would change owners by itself,
//! the image's too; it is told not to, and this is done here instead, file by file.

use std::ffi::CString;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User, getgrouplist, setfsgid, setfsuid};

use super::HypervisorError;

/// A user, with the group that QEMU is started with and all groups it belongs to.
#[derive(Debug, Clone)]
pub(super) struct QemuUser {
    pub(super) name: String,
    pub(super) group: String,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl QemuUser {
    /// Looks the user up.
    ///
    /// # Errors
    /// When the host has no such user or group.
    pub(super) fn find(name: &str, group: &str) -> Result<Self, HypervisorError> {
        let missing = |what: &str, name: &str| {
            HypervisorError::Unsuitable(format!(
                "there is no {what} `{name}` for QEMU to run as: install the package \
                 libvirt-daemon-driver-qemu or run server/host/install-packages.sh, which make it"
            ))
        };
        let user = User::from_name(name).ok().flatten();
        let user = user.ok_or_else(|| missing("user", name))?;
        let found = Group::from_name(group).ok().flatten();
        let gid = found.ok_or_else(|| missing("group", group))?.gid;
        let groups = CString::new(name)
            .ok()
            .and_then(|name| getgrouplist(&name, gid).ok())
            .unwrap_or_else(|| vec![gid]);
        Ok(Self {
            name: name.to_owned(),
            group: group.to_owned(),
            uid: user.uid,
            gid,
            groups,
        })
    }

    /// A user of this number, who needs no name, in one of this one's groups and no other: libvirt knows the
    /// groups of users with a name only.
    pub(super) fn alone(&self, id: u32, group: Gid) -> Self {
        Self {
            uid: Uid::from_raw(id),
            gid: group,
            groups: vec![group],
            ..self.clone()
        }
    }

    /// Another user in the same groups.
    pub(super) fn with_id(&self, id: u32) -> Self {
        Self {
            uid: Uid::from_raw(id),
            ..self.clone()
        }
    }

    /// The groups that QEMU may run in, the preferred one first.
    pub(super) fn groups(&self) -> impl Iterator<Item = Gid> {
        let others = self.groups.iter().filter(|group| **group != self.gid);
        std::iter::once(self.gid).chain(others.copied())
    }

    /// Whether the group already reads what is [`Self::let_group_in`] to it.
    pub(super) fn is_group_of(&self, data: &std::fs::Metadata) -> bool {
        std::os::unix::fs::MetadataExt::gid(data) == self.gid.as_raw()
    }

    /// Its number and that of its group, as libvirt is told them.
    pub(super) fn ids(&self) -> (u32, u32) {
        (self.uid.as_raw(), self.gid.as_raw())
    }

    /// Makes the file QEMU's own.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn give(&self, path: &Path, mode: u32) -> io::Result<()> {
        chown(path, Some(self.uid.as_raw()), Some(self.gid.as_raw()))?;
        std::fs::set_permissions(path, Permissions::from_mode(mode))
    }

    /// Keeps the file root's and opens it to QEMU's group as far as `mode` says.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn let_group_in(&self, path: &Path, mode: u32) -> io::Result<()> {
        chown(path, Some(0), Some(self.gid.as_raw()))?;
        std::fs::set_permissions(path, Permissions::from_mode(mode))
    }

    /// The first folder on the way to `path`, itself included, that the user cannot pass through.
    ///
    /// # Errors
    /// When this process may not take on the user's rights, which takes root.
    pub(super) fn first_closed(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let mut folders: Vec<&Path> = path.ancestors().collect();
        folders.reverse();
        self.with_rights(|| {
            folders
                .into_iter()
                .find(|folder| denied(std::fs::metadata(folder.join("."))))
                .map(Path::to_owned)
        })
    }

    /// Whether the user is denied the file for reading, or for reading and writing.
    ///
    /// # Errors
    /// When this process may not take on the user's rights, which takes root.
    pub(super) fn is_denied(&self, path: &Path, write: bool) -> io::Result<bool> {
        self.with_rights(|| {
            denied(
                std::fs::OpenOptions::new()
                    .read(true)
                    .write(write)
                    .open(path),
            )
        })
    }

    /// Runs `f` on a thread that has the user's rights to files and no others. Asking the system is
    /// right where reading modes would not be: access lists, read-only mounts.
    fn with_rights<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        let ended = || io::Error::other("the thread that tried a file ended");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                set_thread_groups(&self.groups)?;
                setfsgid(self.gid);
                setfsuid(self.uid);
                // These calls have no error; asking once more tells.
                if setfsuid(self.uid) != self.uid || setfsgid(self.gid) != self.gid {
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                Ok(f())
            });
            thread.join().map_err(|_| ended())?
        })
    }
}

/// Sets the supplementary groups of the calling thread alone. The C library's function of that name
/// would set those of the whole process.
fn set_thread_groups(groups: &[Gid]) -> io::Result<()> {
    let groups: Vec<nix::libc::gid_t> = groups.iter().map(|gid| gid.as_raw()).collect();
    // SAFETY: the kernel reads `len` numbers from `groups`, which outlives the call.
    let result = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_setgroups,
            groups.len(),
            groups.as_ptr().cast::<nix::libc::c_void>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn denied<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> QemuUser {
        let user = User::from_name("nobody").unwrap().unwrap();
        let group = Group::from_gid(user.gid).unwrap().unwrap();
        QemuUser::find("nobody", &group.name).unwrap()
    }

    fn demand_root() {
        assert!(
            nix::unistd::geteuid().is_root(),
            "taking on another user's rights takes root; see `make test`"
        );
    }

    #[test]
    fn a_missing_user_is_named() {
        let error = QemuUser::find("no-such-user", "root").unwrap_err();
        assert!(error.to_string().contains("no-such-user"), "{error}");
        let error = QemuUser::find("root", "no-such-group").unwrap_err();
        assert!(error.to_string().contains("no-such-group"), "{error}");
    }

    #[test]
    fn the_first_closed_folder_is_found() {
        demand_root();
        let top = tempfile::tempdir().unwrap();
        let deep = top.path().join("a/b/c");
        std::fs::create_dir_all(&deep).unwrap();
        let open = |path: &Path, mode| {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        open(top.path(), 0o711);
        assert_eq!(nobody().first_closed(&deep).unwrap(), None);
        let middle = top.path().join("a/b");
        open(&middle, 0o700);
        assert_eq!(nobody().first_closed(&deep).unwrap(), Some(middle.clone()));
        // What a mode alone would not tell: the group lets the user in.
        nobody().let_group_in(&middle, 0o710).unwrap();
        assert_eq!(nobody().first_closed(&deep).unwrap(), None);
    }

    #[test]
    fn rights_are_those_of_the_user_and_only_on_that_thread() {
        demand_root();
        let top = tempfile::tempdir().unwrap();
        std::fs::set_permissions(top.path(), Permissions::from_mode(0o711)).unwrap();
        let file = top.path().join("file");
        std::fs::write(&file, b"secret").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        assert!(nobody().is_denied(&file, false).unwrap());
        nobody().let_group_in(&file, 0o440).unwrap();
        assert!(!nobody().is_denied(&file, false).unwrap());
        assert!(nobody().is_denied(&file, true).unwrap());
        nobody().give(&file, 0o600).unwrap();
        assert!(!nobody().is_denied(&file, true).unwrap());
        // This thread is still root.
        std::fs::write(top.path().join("other"), b"x").unwrap();
    }
}
