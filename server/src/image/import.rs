//! Takes an image that was built elsewhere into the folder of the images: whole and checked, or not at all.

use std::fs::{DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::load::load;
use super::manifest::{self, Manifest};
use super::{Entry, ImageError, shelf};

/// What is copied beside the parts of a machine, if it is there.
const EXTRAS: [&str; 2] = ["sbom.spdx.json", "client"];

/// How deep folders in an image may lie.
const MAX_DEPTH: usize = 4;

/// What ends the name of a folder that is being copied.
const UNFINISHED: &str = "importing";

/// An image that is on this host now.
#[derive(Debug)]
pub struct Imported {
    /// What was read of it.
    pub entry: Entry,
    /// Whether it was there before.
    pub is_new: bool,
}

/// An image could not be imported. Nothing of it is left that could be taken for one.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// What was to be imported is none.
    #[error("{folder} is not an image that can be used", folder = folder.display())]
    Source {
        /// Where it is.
        folder: PathBuf,
        /// Why not.
        #[source]
        source: ImageError,
    },
    /// Its name could lead anywhere.
    #[error(
        "the manifest in {folder} calls its image \"{name}\": a name has up to 64 of the letters a-z, digits \
         and `-`, and begins with none of the latter",
        folder = folder.display(), name = name.escape_debug()
    )]
    Name {
        /// Where it is.
        folder: PathBuf,
        /// What it is called.
        name: String,
    },
    /// It holds what no image holds.
    #[error("{path} is neither a file nor a folder, or lies too deep: an image holds no such thing", path = path.display())]
    Strange {
        /// What.
        path: PathBuf,
    },
    /// It is there already, and is not what it was.
    #[error(
        "{folder} is this image, and it was damaged: move it away when no machine uses it, and import it \
         again",
        folder = folder.display()
    )]
    Damaged {
        /// Where it is.
        folder: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ImageError,
    },
    /// A file could not be read or written.
    #[error("could not {doing} {path}", path = path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Copies the image in the folder `source` into `images`, which is made if it is missing. The copy is
/// checked before it gets its name.
///
/// # Errors
/// When it is not an image or cannot be copied.
pub fn import(source: &Path, images: &Path) -> Result<Imported, ImportError> {
    let of_source = |error| ImportError::Source {
        folder: source.to_owned(),
        source: error,
    };
    let manifest = Manifest::read(source).map_err(of_source)?;
    if !manifest::is_spoken(manifest.agent_protocol) {
        return Err(of_source(ImageError::Protocol {
            path: source.join(manifest::FILE),
            found: manifest.agent_protocol,
        }));
    }
    let name = name_of(&manifest).ok_or_else(|| ImportError::Name {
        folder: source.to_owned(),
        name: manifest.name.clone(),
    })?;
    load(source).map_err(of_source)?;

    make_way(images)?;
    let _lock = lock(images)?;
    sweep(images)?;
    let place = images.join(&name);
    let is_new = !place.exists();
    if is_new {
        let draft = images.join(format!("{name}.{UNFINISHED}"));
        let copied = copy_image(source, &draft).and_then(|()| {
            load(&draft).map_err(of_source)?;
            std::fs::rename(&draft, &place).map_err(file("name", &place))
        });
        if let Err(error) = copied {
            // What cannot be removed now is swept by the next import.
            let _ = std::fs::remove_dir_all(&draft);
            return Err(error);
        }
        sync(images)?;
    } else {
        load(&place).map_err(|source| ImportError::Damaged {
            folder: place.clone(),
            source,
        })?;
    }
    let damaged = |source| ImportError::Damaged {
        folder: place.clone(),
        source,
    };
    // Whatever else lies there may be damaged as it likes.
    let entry = shelf::read(place.clone()).map_err(damaged)?;
    Ok(Imported { entry, is_new })
}

/// The name of its folder here; the digest keeps generations apart.
fn name_of(manifest: &Manifest) -> Option<String> {
    let name = &manifest.name;
    let plain = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '-';
    let is_good =
        (1..=64).contains(&name.len()) && !name.starts_with('-') && name.chars().all(plain);
    let digest = manifest.digest();
    is_good.then(|| format!("{name}-{}", digest.get(..12).unwrap_or(&digest)))
}

/// One import at a time.
fn lock(images: &Path) -> Result<Flock<File>, ImportError> {
    let path = images.join(".import-lock");
    let opened = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let opened = opened.map_err(file("open", &path))?;
    Flock::lock(opened, FlockArg::LockExclusive)
        .map_err(|(_, errno)| file("lock", &path)(errno.into()))
}

/// Removes what an import left that was killed.
fn sweep(images: &Path) -> Result<(), ImportError> {
    let entries = std::fs::read_dir(images).map_err(file("read", images))?;
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.extension().is_some_and(|it| it == UNFINISHED) {
            std::fs::remove_dir_all(&path).map_err(file("remove", &path))?;
        }
    }
    Ok(())
}

fn copy_image(source: &Path, draft: &Path) -> Result<(), ImportError> {
    make_folder(draft)?;
    let manifest = [manifest::FILE, manifest::DIGEST_FILE];
    let parts = [manifest::DISK, manifest::KERNEL, manifest::INITRD];
    for name in parts.into_iter().chain(manifest) {
        copy(&source.join(name), &draft.join(name), 0)?;
    }
    for name in EXTRAS {
        let extra = source.join(name);
        if extra.symlink_metadata().is_ok() {
            copy(&extra, &draft.join(name), 0)?;
        }
    }
    sync(draft)
}

/// Copies a file, or a folder with all that is in it. Links and devices could be anything.
fn copy(from: &Path, to: &Path, depth: usize) -> Result<(), ImportError> {
    let kind = from.symlink_metadata().map_err(file("read", from))?;
    if kind.is_file() {
        copy_file(from, to).map_err(file("copy", from))?;
        let mode = if kind.permissions().mode() & 0o100 == 0 {
            0o644
        } else {
            0o755
        };
        std::fs::set_permissions(to, Permissions::from_mode(mode)).map_err(file("open", to))?;
        return sync(to);
    }
    if !kind.is_dir() || depth == MAX_DEPTH {
        return Err(ImportError::Strange {
            path: from.to_owned(),
        });
    }
    make_folder(to)?;
    for entry in std::fs::read_dir(from).map_err(file("read", from))? {
        let entry = entry.map_err(file("read", from))?;
        copy(&entry.path(), &to.join(entry.file_name()), depth + 1)?;
    }
    sync(to)
}

/// Not what stands in its place since it was looked at: a link could lead anywhere.
fn copy_file(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut source = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(from)?;
    if !source.metadata()?.is_file() {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    std::io::copy(&mut source, &mut File::create_new(to)?).map(|_| ())
}

/// Makes a folder and those above it that are missing. What was there keeps its mode: somebody chose it.
fn make_way(path: &Path) -> Result<(), ImportError> {
    // A relative path of one part has nothing above it that could be missing.
    let above = path.parent().filter(|it| !it.as_os_str().is_empty());
    if let Some(above) = above
        && !above.is_dir()
    {
        make_way(above)?;
    }
    match make_folder(path) {
        // Somebody else's import may have made it at the same time.
        Err(ImportError::File { source, .. })
            if source.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() =>
        {
            Ok(())
        }
        made => made,
    }
}

/// One that QEMU's user can pass through, whatever the umask is.
fn make_folder(path: &Path) -> Result<(), ImportError> {
    DirBuilder::new()
        .mode(0o755)
        .create(path)
        .map_err(file("make", path))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(file("open", path))
}

/// A host that loses power must not come back with an image of zeros.
fn sync(path: &Path) -> Result<(), ImportError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(file("write", path))
}

fn file(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ImportError {
    let path = path.to_owned();
    move |source| ImportError::File {
        doing,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::load_all;
    use super::super::testing::{write_image, write_manifest};
    use super::*;

    struct Bench {
        folder: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let this = Self { folder };
            write_image(&this.source(), "26");
            fs::create_dir_all(this.source().join("client/cli-plugins")).unwrap();
            fs::write(this.source().join("client/docker"), "elf").unwrap();
            fs::set_permissions(
                this.source().join("client/docker"),
                Permissions::from_mode(0o700),
            )
            .unwrap();
            fs::write(this.source().join("notes"), "no part of an image").unwrap();
            this
        }

        fn source(&self) -> PathBuf {
            self.folder.path().join("built")
        }

        fn images(&self) -> PathBuf {
            self.folder.path().join("some/images")
        }

        fn import(&self) -> Result<Imported, ImportError> {
            import(&self.source(), &self.images())
        }

        /// Nothing is there that could be taken for an image.
        fn assert_nothing_came(&self) {
            let left = fs::read_dir(self.images()).map(|entries| entries.count());
            assert!(left.unwrap_or(0) <= 1, "more than the lock is left");
            assert!(load_all(&self.images()).is_err());
        }
    }

    #[test]
    fn an_image_is_taken_in_once_and_is_used() {
        let bench = Bench::new();
        let first = bench.import().unwrap();
        assert!(first.is_new);
        let folder = &first.entry.folder;
        assert_eq!(folder.parent(), Some(&*bench.images()));
        let mode = |name: &str| {
            fs::metadata(folder.join(name))
                .unwrap()
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!(mode("client/docker"), 0o755);
        assert_eq!(mode("vmlinuz"), 0o644);
        assert!(!folder.join("notes").exists());
        let used = load_all(&bench.images()).unwrap();
        assert_eq!(used[0].files.kernel, folder.join("vmlinuz"));
        let again = bench.import().unwrap();
        assert!(!again.is_new);
        assert_eq!(again.entry.folder, *folder);
    }

    #[test]
    fn others_may_read_it_whatever_the_umask_is() {
        let bench = Bench::new();
        let kept = bench.folder.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::set_permissions(&kept, Permissions::from_mode(0o700)).unwrap();
        let folder = std::thread::scope(|scope| {
            let import = || {
                // The umask is the whole process's until a thread takes its own.
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
                nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
                import(&bench.source(), &kept).unwrap();
                bench.import().unwrap().entry.folder
            };
            scope.spawn(import).join().unwrap()
        });
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let images = bench.images();
        for (path, wanted) in [
            (images.parent().unwrap(), 0o755),
            (&images, 0o755),
            (&folder, 0o755),
            (&folder.join("client/cli-plugins"), 0o755),
            (&folder.join("client/docker"), 0o755),
            (&folder.join("disk.qcow2"), 0o644),
            (&folder.join("manifest.json"), 0o644),
            // What was there is its owner's.
            (&kept, 0o700),
        ] {
            assert_eq!(mode(path), wanted, "{}", path.display());
        }
    }

    #[test]
    fn what_is_no_image_is_not_taken_in() {
        for damage in ["vmlinuz", "disk.qcow2", "manifest.json", "manifest.sha256"] {
            let bench = Bench::new();
            fs::write(bench.source().join(damage), "damaged").unwrap();
            let error = bench.import().unwrap_err();
            assert!(
                matches!(error, ImportError::Source { .. }),
                "{damage}: {error:?}"
            );
            bench.assert_nothing_came();
            fs::remove_file(bench.source().join(damage)).unwrap();
            bench.import().unwrap_err();
            bench.assert_nothing_came();
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in [
            "../../etc",
            "",
            "a/b",
            "a.new",
            "-a",
            "A",
            "\u{1b}[2J",
            &"a".repeat(65),
        ] {
            let bench = Bench::new();
            let text = fs::read_to_string(bench.source().join("manifest.json")).unwrap();
            let text = text.replace(
                "\"name\":\"x\"",
                &format!("\"name\":{}", serde_json::json!(name)),
            );
            write_manifest(&bench.source(), &text);
            let error = bench.import().unwrap_err();
            assert!(
                matches!(error, ImportError::Name { .. }),
                "{name:?}: {error:?}"
            );
            assert!(!error.to_string().contains('\u{1b}'));
            bench.assert_nothing_came();
        }
    }

    #[test]
    fn links_and_endless_folders_are_refused_and_leave_nothing() {
        let bench = Bench::new();
        std::os::unix::fs::symlink("/etc/shadow", bench.source().join("client/secret")).unwrap();
        let error = bench.import().unwrap_err();
        assert!(
            matches!(&error, ImportError::Strange { path } if path.ends_with("client/secret")),
            "{error:?}"
        );
        bench.assert_nothing_came();
        fs::remove_file(bench.source().join("client/secret")).unwrap();
        let deep = bench.source().join("client").join("a/".repeat(MAX_DEPTH));
        fs::create_dir_all(deep).unwrap();
        let error = bench.import().unwrap_err();
        assert!(matches!(error, ImportError::Strange { .. }), "{error:?}");
        bench.assert_nothing_came();
    }

    #[test]
    fn what_a_killed_import_left_is_no_image_and_is_swept() {
        let bench = Bench::new();
        let left = bench.images().join("x-0123.importing");
        write_image(&left, "26");
        assert!(load_all(&bench.images()).is_err());
        bench.import().unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn what_else_is_damaged_there_is_not_held_against_it() {
        let bench = Bench::new();
        let other = bench.images().join("other");
        write_image(&other, "28");
        fs::write(other.join("manifest.json"), "rubbish").unwrap();
        assert!(bench.import().unwrap().is_new);
        assert!(!bench.import().unwrap().is_new);
    }

    #[test]
    fn what_never_ends_is_not_read() {
        let bench = Bench::new();
        for (name, kind) in [("manifest.json", "p"), ("vmlinuz", "p")] {
            let path = bench.source().join(name);
            fs::remove_file(&path).unwrap();
            let made = std::process::Command::new("mknod")
                .arg(&path)
                .arg(kind)
                .status();
            assert!(made.unwrap().success());
            bench.import().unwrap_err();
            write_image(&bench.folder.path().join("good"), "26");
            fs::remove_file(&path).unwrap();
            fs::copy(bench.folder.path().join("good").join(name), &path).unwrap();
        }
        let path = bench.source().join("manifest.json");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        bench.import().unwrap_err();
        bench.assert_nothing_came();
    }

    #[test]
    fn an_image_that_is_there_and_damaged_is_not_called_imported() {
        let bench = Bench::new();
        let folder = bench.import().unwrap().entry.folder;
        fs::write(folder.join("vmlinuz"), "damaged").unwrap();
        let error = bench.import().unwrap_err();
        assert!(matches!(error, ImportError::Damaged { .. }), "{error:?}");
    }
}
