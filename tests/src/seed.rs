//! Templates that tests share. To build one takes half a minute where there is no hardware
//! virtualization; a template's files are never written to once it is complete, so each test's state
//! folder gets links to one that an earlier test's server built.
//!
//! Whether a template fits is for the server to say: it looks at the template's key. One that does not
//! fit is built anew, and then shared in its turn.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use crate::process::{bounded, succeed};

/// Templates kept for the tests of one image.
#[derive(Debug)]
pub(crate) struct Seed {
    folder: PathBuf,
}

/// Held by the one test that builds the first template, while the others wait for it.
#[derive(Debug)]
pub(crate) struct Turn(Option<Flock<File>>);

impl Seed {
    /// The seed in `folder`.
    pub(crate) fn new(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        Self { folder }
    }

    /// Puts what there is into a state folder. If there is nothing, the caller is the one to build it
    /// and holds the others up until the turn is dropped.
    pub(crate) fn plant(&self, state: &Path) -> Turn {
        let file = File::create(self.folder.join("lock")).expect("the lock of shared templates");
        let lock = Flock::lock(file, FlockArg::LockExclusive);
        let lock = lock.map_err(|(_, error)| error).expect("locking templates");
        link_tree(&self.folder.join("templates"), &state.join("templates"));
        Turn(self.is_empty().then_some(lock))
    }

    /// Keeps the templates that a server has built.
    pub(crate) fn harvest(&self, state: &Path, turn: Turn) {
        let lock = turn.0.unwrap_or_else(|| {
            let file = File::create(self.folder.join("lock")).expect("the lock");
            let lock = Flock::lock(file, FlockArg::LockExclusive);
            lock.map_err(|(_, error)| error).expect("locking templates")
        });
        link_tree(&state.join("templates"), &self.folder.join("templates"));
        drop(lock);
    }

    fn is_empty(&self) -> bool {
        !fs::read_dir(self.folder.join("templates"))
            .is_ok_and(|mut entries| entries.next().is_some())
    }
}

/// Makes what is in `from` appear in `to`, file by file: as links, or as copies with their holes where
/// `to` is another file system. What is there already stays as it is.
fn link_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // Half-built ones belong to whoever builds them.
            if source.extension().is_none() {
                link_tree(&source, &target);
            }
            continue;
        }
        if target.exists() {
            continue;
        }
        copy_folder_with_its_mode(from, to);
        if fs::hard_link(&source, &target).is_err() {
            let mut cp = bounded(Duration::from_secs(60), "cp");
            cp.args([
                "--sparse=always",
                "--reflink=auto",
                "--preserve=mode,ownership",
            ]);
            succeed(cp.arg(&source).arg(&target));
        }
    }
}

fn copy_folder_with_its_mode(from: &Path, to: &Path) {
    if to.is_dir() {
        return;
    }
    if let (Some(from), Some(to)) = (from.parent(), to.parent()) {
        copy_folder_with_its_mode(from, to);
    }
    fs::create_dir(to).unwrap_or_else(|error| panic!("{}: {error}", to.display()));
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(from).expect("the folder's mode");
    fs::set_permissions(to, meta.permissions()).expect("the folder's mode");
    std::os::unix::fs::chown(to, Some(meta.uid()), Some(meta.gid())).expect("the folder's owner");
}
