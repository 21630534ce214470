//! Clears away images that nobody needs any more.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::choice::{self, Candidate};
use super::{Entry, Hold, ImageError, Mark, look, manifest};
use crate::hypervisor::template::{TemplateError, Templates};

/// How many images of an engine stay: the one in use and the one before it.
pub const GENERATIONS: usize = 2;

/// What ends the name of a folder that is being removed.
const GOING: &str = "removing";

/// What became of an image that is not needed.
#[derive(Debug)]
pub struct Cleared {
    /// What is known of it.
    pub entry: Entry,
    /// Why it stays; `None` when it is gone.
    pub stays: Option<Use>,
}

/// What an image is still needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A server holds it.
    Server,
    /// A template was made of it.
    Template,
    /// A process has a file of it open, as each machine does.
    Open,
}

/// Images could not be cleared away.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// What there is cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The templates cannot be read.
    #[error("it is not known which images templates are made of")]
    Templates(#[from] TemplateError),
    /// It cannot be told what is open.
    #[error("it is not known which images machines use")]
    Proc(#[source] std::io::Error),
    /// Something is left.
    #[error("could not remove {path}", path = path.display())]
    Left {
        /// What.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Removes the images in `folder` that are retired or older than the last `generations` of their engine,
/// unless something needs them. With `dry_run` it only tells.
///
/// # Errors
/// On the first thing that cannot be found out or removed.
pub fn clear(
    folder: &Path,
    templates: &Templates,
    generations: usize,
    dry_run: bool,
) -> Result<Vec<Cleared>, GcError> {
    if !dry_run {
        sweep(folder)?;
    }
    // What is damaged is for people to judge: it may be the only one of its engine.
    let all = look(folder)?.images;
    // Those of another version of the server are for that to judge.
    let usable = all.iter().filter(|it| it.speaks_our_protocol());
    let candidates: Vec<Candidate> = usable.map(|it| it.candidate.clone()).collect();
    let superfluous: BTreeSet<&str> = choice::superfluous(&candidates, generations)
        .into_iter()
        .map(|it| it.name.as_str())
        .collect();
    let mut cleared = Vec::new();
    for entry in all {
        if superfluous.contains(&*entry.candidate.name) {
            let stays = clear_one(&entry, templates, dry_run)?;
            cleared.push(Cleared { entry, stays });
        }
    }
    Ok(cleared)
}

fn clear_one(entry: &Entry, templates: &Templates, dry_run: bool) -> Result<Option<Use>, GcError> {
    let folder = &entry.folder;
    // From here on nobody begins to use it.
    let Some(_alone) = Hold::alone(folder)? else {
        return Ok(Some(Use::Server));
    };
    let place = folder.canonicalize().map_err(left(folder))?;
    let is_here = |disk: PathBuf| disk.starts_with(&place);
    if templates.image_disks()?.into_iter().any(is_here) {
        return Ok(Some(Use::Template));
    }
    if is_open(folder)? {
        return Ok(Some(Use::Open));
    }
    if dry_run {
        return Ok(None);
    }
    // Whatever happens now, what is half gone is no image any more.
    let going = going(folder);
    std::fs::rename(folder, &going).map_err(left(folder))?;
    std::fs::remove_dir_all(&going).map_err(left(&going))?;
    for mark in [Mark::Tested, Mark::Retired] {
        mark.remove(folder).map_err(left(folder))?;
    }
    Ok(None)
}

fn going(folder: &Path) -> PathBuf {
    folder.with_extension(GOING)
}

/// Removes what was left by one that was killed.
fn sweep(folder: &Path) -> Result<(), GcError> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(());
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.extension().is_some_and(|it| it == GOING) {
            std::fs::remove_dir_all(&path).map_err(left(&path))?;
        }
    }
    Ok(())
}

/// Whether any process has a part of this image open. The lock's own file is not a part.
fn is_open(folder: &Path) -> Result<bool, GcError> {
    let parts = [manifest::DISK, manifest::KERNEL, manifest::INITRD];
    let id = |file: std::fs::Metadata| (file.dev(), file.ino());
    let parts: Vec<(u64, u64)> = parts
        .iter()
        .filter_map(|name| std::fs::metadata(folder.join(name)).ok().map(id))
        .collect();
    let processes = std::fs::read_dir("/proc").map_err(GcError::Proc)?;
    for process in processes.filter_map(|entry| Some(entry.ok()?.path())) {
        // What is no process has none, and one that ended meanwhile has none any more.
        let Ok(files) = std::fs::read_dir(process.join("fd")) else {
            continue;
        };
        let opened = files
            .filter_map(|file| std::fs::metadata(file.ok()?.path()).ok())
            .map(id);
        if opened.into_iter().any(|file| parts.contains(&file)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn left(path: &Path) -> impl FnOnce(std::io::Error) -> GcError {
    let path = path.to_owned();
    move |source| GcError::Left { path, source }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use time::OffsetDateTime;

    use super::super::testing::{write_image, write_manifest};
    use super::super::{entries, load_all};
    use super::*;

    struct Bench {
        folder: tempfile::TempDir,
        templates: Templates,
    }

    impl Bench {
        /// Three generations of one engine; all but the last can go.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let templates = Templates::new(folder.path().join("templates"));
            let this = Self { folder, templates };
            for (name, s) in [("a", 1), ("b", 2), ("c", 3)] {
                write_image(&this.image(name), "26");
                this.mark(Mark::Tested, name, s);
            }
            this
        }

        fn images(&self) -> PathBuf {
            self.folder.path().join("images")
        }

        fn image(&self, name: &str) -> PathBuf {
            self.images().join(name)
        }

        fn mark(&self, mark: Mark, name: &str, s: i64) {
            let digest = &entries(&self.images()).unwrap()[0].digest;
            let at = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(s);
            mark.set(&self.image(name), digest, at).unwrap();
        }

        fn clear(&self, generations: usize) -> Vec<(String, Option<Use>)> {
            let cleared = clear(&self.images(), &self.templates, generations, false).unwrap();
            let told = |it: Cleared| (it.entry.candidate.name, it.stays);
            cleared.into_iter().map(told).collect()
        }
    }

    #[test]
    fn what_is_older_than_the_last_two_goes_and_nothing_of_it_stays() {
        let bench = Bench::new();
        let told = clear(&bench.images(), &bench.templates, GENERATIONS, true).unwrap();
        assert_eq!(told.len(), 1);
        assert!(bench.image("a").exists());
        assert_eq!(bench.clear(GENERATIONS), [("a".to_owned(), None)]);
        let mut left: Vec<_> = fs::read_dir(bench.images())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["b", "b.tested", "c", "c.tested"]);
        assert_eq!(bench.clear(GENERATIONS), []);
    }

    #[test]
    fn images_of_another_version_of_the_server_neither_count_nor_go() {
        let bench = Bench::new();
        for name in ["b", "c"] {
            let manifest = bench.image(name).join("manifest.json");
            let text = fs::read_to_string(manifest).unwrap();
            let ours = format!("\"agent_protocol\":{}", guest_protocol::VERSION);
            write_manifest(
                &bench.image(name),
                &text.replace(&ours, "\"agent_protocol\":999"),
            );
        }
        assert_eq!(bench.clear(1), []);
        bench.mark(Mark::Retired, "a", 9);
        assert_eq!(bench.clear(1), [("a".to_owned(), None)]);
        assert!(bench.image("b").exists() && bench.image("c").exists());
    }

    #[test]
    fn what_a_server_holds_stays_until_it_ends() {
        let bench = Bench::new();
        bench.mark(Mark::Tested, "a", 9);
        let used = load_all(&bench.images()).unwrap();
        assert!(used[0].files.disk.starts_with(bench.image("a")));
        // The next server will use another.
        bench.mark(Mark::Retired, "a", 10);
        assert_eq!(bench.clear(2), [("a".to_owned(), Some(Use::Server))]);
        drop(used);
        assert_eq!(bench.clear(2), [("a".to_owned(), None)]);
    }

    #[test]
    fn what_a_machine_has_open_stays() {
        let bench = Bench::new();
        let machine = fs::File::open(bench.image("a").join("disk.qcow2")).unwrap();
        assert_eq!(bench.clear(2), [("a".to_owned(), Some(Use::Open))]);
        drop(machine);
        assert_eq!(bench.clear(2), [("a".to_owned(), None)]);
    }

    #[test]
    fn a_damaged_one_stays_and_holds_nobody_up() {
        let bench = Bench::new();
        fs::write(bench.image("c").join("manifest.json"), "{}").unwrap();
        entries(&bench.images()).unwrap_err();
        assert_eq!(bench.clear(1), [("a".to_owned(), None)]);
        assert!(bench.image("b").exists() && bench.image("c").exists());
    }

    #[test]
    fn what_is_half_gone_is_no_image_and_goes() {
        let bench = Bench::new();
        fs::rename(bench.image("a"), bench.image("a.removing")).unwrap();
        assert_eq!(entries(&bench.images()).unwrap().len(), 2);
        assert_eq!(bench.clear(2), []);
        assert!(!bench.image("a.removing").exists());
    }
}
