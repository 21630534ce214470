//! The network namespace that holds nothing but this installation's VMs.
//!
//! It is named as `ip netns` names them: a mount of the kernel's namespace object on a file in
//! `/run/netns`. The mount keeps it, and the VMs' wires in it, alive while no server runs.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::NetworkError;
use crate::ids::InstallId;

const FOLDER: &str = "/run/netns";

/// A named network namespace. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: String,
    object: Arc<File>,
}

impl Namespace {
    /// Opens the installation's namespace, making it where it is not there. The calling thread stays
    /// in the namespace it is in.
    ///
    /// # Errors
    /// When the process may not make namespaces or mounts; that takes root.
    pub fn open_or_create(install: InstallId) -> Result<Self, NetworkError> {
        let name = install.namespace();
        let path = path(&name);
        fs::create_dir_all(FOLDER).map_err(NetworkError::system(format!("make {FOLDER}")))?;
        let _lock = host_lock()?;
        share_folder()?;
        if let Some(object) = open_if_mounted(&path)? {
            return Ok(Self { name, object });
        }
        // A file without a mount is what a crash in the middle leaves; it is mounted over.
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(NetworkError::system(format!("make {}", path.display())))?;
        mount_new_namespace(&path)?;
        match open_if_mounted(&path)? {
            Some(object) => Ok(Self { name, object }),
            None => Err(NetworkError::System {
                doing: format!("find the namespace just mounted on {}", path.display()),
                source: io::ErrorKind::NotFound.into(),
            }),
        }
    }

    /// Makes an empty namespace that has no name: the kernel frees it, with all that is in it, when the last
    /// handle and the last thread in it are gone.
    ///
    /// # Errors
    /// When the process may not make namespaces; that takes root.
    pub(super) fn unnamed() -> Result<Self, NetworkError> {
        let doing = "make a network namespace (this takes root)";
        let object = on_new_thread(|| -> io::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        })?;
        let object = object.map_err(NetworkError::system(doing))?;
        Ok(Self {
            name: "without a name".to_owned(),
            object: Arc::new(object),
        })
    }

    /// The namespace's name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves the calling thread into this namespace for good. Sockets, devices and processes that the
    /// thread makes from then on belong here; those it had stay where they were. Never call it on a
    /// thread of a shared runtime.
    ///
    /// # Errors
    /// When the process lacks the right to, which takes root.
    pub fn enter_current_thread(&self) -> Result<(), NetworkError> {
        enter(self.object.as_fd()).map_err(NetworkError::system(format!(
            "enter network namespace {}",
            self.name
        )))
    }

    /// Takes the name away. The kernel frees the namespace when no thread and no handle is left in
    /// it. The caller has seen that it holds no wires; see [`super::Network::close_if_empty`].
    ///
    /// # Errors
    /// When the mount or its file cannot be taken away. Gone already is not an error.
    pub(super) fn remove(&self) -> Result<(), NetworkError> {
        let path = path(&self.name);
        let doing = || format!("remove {}", path.display());
        match umount2(&path, MntFlags::MNT_DETACH) {
            // EINVAL: not mounted, a half-made one.
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => return Err(NetworkError::system(doing())(error)),
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(NetworkError::system(doing())(error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn object(&self) -> BorrowedFd<'_> {
        self.object.as_fd()
    }
}

/// Makes the folder a mount of its own that passes its mounts on, as `ip netns add` does when it
/// finds none. Done by that program after this one mounted something there, it would cover our mount
/// with a second one; then the name could not be taken away again.
fn share_folder() -> Result<(), NetworkError> {
    let none: Option<&str> = None;
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(none, FOLDER, none, flags, none)
    };
    let shared = match share() {
        // EINVAL: it is no mount yet.
        Err(nix::Error::EINVAL) => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(FOLDER), FOLDER, none, flags, none).and_then(|()| share())
        }
        shared => shared,
    };
    shared.map_err(NetworkError::system(format!(
        "make {FOLDER} a mount that is shared (this takes root)"
    )))
}

/// Held while something is chosen that all servers of this host share: names and address pairs. The
/// kernel lets go of it when the holder dies.
pub(super) fn host_lock() -> Result<Flock<File>, NetworkError> {
    let doing = || format!("lock {FOLDER}");
    let folder = File::open(FOLDER).map_err(NetworkError::system(doing()))?;
    Flock::lock(folder, FlockArg::LockExclusive)
        .map_err(|(_, error)| NetworkError::system(doing())(error))
}

/// Moves the calling thread into a namespace.
pub(super) fn enter(object: BorrowedFd<'_>) -> io::Result<()> {
    setns(object, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

/// A second handle, for a thread to take along.
pub(super) fn handle(object: BorrowedFd<'_>) -> Result<File, NetworkError> {
    let copy = object.try_clone_to_owned();
    copy.map(File::from)
        .map_err(NetworkError::system("copy a handle of a network namespace"))
}

/// The calling thread's own network namespace.
pub(super) fn current() -> Result<File, NetworkError> {
    File::open("/proc/thread-self/ns/net")
        .map_err(NetworkError::system("open this thread's network namespace"))
}

fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

fn open_if_mounted(path: &Path) -> Result<Option<Arc<File>>, NetworkError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(NetworkError::system(format!("open {}", path.display()))(
                error,
            ));
        }
    };
    let system = fstatfs(&file).map_err(NetworkError::system(format!(
        "ask what {} is",
        path.display()
    )))?;
    Ok((system.filesystem_type() == NSFS_MAGIC).then(|| Arc::new(file)))
}

fn mount_new_namespace(path: &Path) -> Result<(), NetworkError> {
    let mounted = on_new_thread(|| -> nix::Result<()> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let none: Option<&str> = None;
        mount(
            Some("/proc/thread-self/ns/net"),
            path,
            none,
            MsFlags::MS_BIND,
            none,
        )
    })?;
    mounted.map_err(NetworkError::system(format!(
        "make a network namespace on {} (this takes root)",
        path.display()
    )))
}

/// Runs `f` on a thread that ends right after: the caller's namespace is not touched.
fn on_new_thread<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T, NetworkError> {
    let ended = thread::scope(|scope| scope.spawn(f).join());
    ended.map_err(|_| NetworkError::WorkerGone)
}
