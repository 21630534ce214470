//! What `dockerd`, and nobody else, finds under the name of `runc`: a file of one line in a folder that comes first in
//! its path, which has this program run in its place.
//!
//! `dockerd` runs `runc --version` whenever a client asks for its own version, as most do at first. A Go program that
//! starts is much code and many pages that are written to. So what it said once, before the template is copied, is
//! said again. Everything else goes on to `runc` itself: the one that whoever runs containers finds, too.
//!
//! This is the agent and no shell because its code is in memory and a clone has run much of it, and because it loads no
//! libraries.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

/// What the line says behind the name of this program.
const WORD: &str = "in-place-of-runc";

/// What it is to do, and with what.
struct Repeat<'a> {
    /// Where programs are, without the folder that this is found in.
    path: OsString,
    /// A line that tells which file was asked, and what it said.
    said: &'a Path,
}

/// What this was called with, if it was called to do this. Behind the word stands the file's own name.
pub(crate) fn is_meant(mut arguments: env::ArgsOs) -> Option<Vec<OsString>> {
    let word = arguments.nth(1)?;
    (word == WORD).then(|| arguments.skip(1).collect())
}

/// Does it. Returns only when `runc` said something, or cannot be run.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    #[expect(
        clippy::disallowed_methods,
        reason = "where programs are is said nowhere else"
    )]
    let path = env::var_os("PATH").unwrap_or_default();
    let own = Path::new("/usr/libexec/remote-docker");
    let repeat = Repeat {
        path: without(&path, own),
        said: Path::new("/run/runc-version"),
    };
    let done = repeat.run(arguments);
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    // Whoever started it shows its last words to who asked for a container.
    #[expect(clippy::print_stderr, reason = "this life of the program is a command")]
    {
        eprintln!("runc: {error}");
    }
    ExitCode::from(127)
}

impl Repeat<'_> {
    fn run(&self, arguments: &[OsString]) -> io::Result<()> {
        let (runc, file) = self.find()?;
        if arguments != ["--version"] {
            return Err(self.command(&runc).args(arguments).exec());
        }
        let text = match self.known(&file) {
            Some(text) => text,
            None => match self.ask(&runc) {
                Ok(text) => text,
                // It says itself what is the matter.
                Err(_) => return Err(self.command(&runc).args(arguments).exec()),
            },
        };
        io::stdout().write_all(&text)
    }

    fn command(&self, runc: &Path) -> Command {
        let mut command = Command::new(runc);
        command.env("PATH", &self.path);
        command
    }

    fn find(&self) -> io::Result<(PathBuf, Metadata)> {
        let files = env::split_paths(&self.path).map(|folder| folder.join("runc"));
        files
            .filter_map(|path| fs::metadata(&path).ok().map(|file| (path, file)))
            .find(|(_, file)| file.is_file() && file.permissions().mode() & 0o111 != 0)
            .ok_or_else(|| io::Error::other(format!("there is none in {}", self.path.display())))
    }

    /// What was said, if it was `runc` as it is now that said it.
    fn known(&self, runc: &Metadata) -> Option<Vec<u8>> {
        let told = fs::read(self.said).ok()?;
        let text = told.strip_prefix(identity(runc).as_bytes())?;
        (!text.is_empty()).then(|| text.to_vec())
    }

    /// Has it say it, and keeps that.
    fn ask(&self, runc: &Path) -> io::Result<Vec<u8>> {
        let asked = identity(&fs::metadata(runc)?);
        let Output { status, stdout, .. } = self.command(runc).arg("--version").output()?;
        if !status.success() {
            return Err(io::Error::other("no version"));
        }
        // Somebody may have put another one in its place meanwhile.
        if identity(&fs::metadata(runc)?) == asked {
            // Another one may do the same at the same time.
            let mut new = self.said.as_os_str().to_owned();
            new.push(format!(".{}", std::process::id()));
            let told = [asked.as_bytes(), &stdout].concat();
            // What cannot be kept is asked for again.
            if fs::write(&new, told)
                .and_then(|()| fs::rename(&new, self.said))
                .is_err()
            {
                let _ = fs::remove_file(&new);
            }
        }
        Ok(stdout)
    }
}

/// A line that no other file has, nor this one once somebody has written to it: the last of the times is one that
/// nobody can set.
fn identity(file: &Metadata) -> String {
    format!(
        "{} {} {} {}.{:09} {}.{:09}\n",
        file.dev(),
        file.ino(),
        file.size(),
        file.mtime(),
        file.mtime_nsec(),
        file.ctime(),
        file.ctime_nsec()
    )
}

/// Folders without one of them.
fn without(path: &OsStr, folder: &Path) -> OsString {
    let rest = env::split_paths(path).filter(|it| it != folder);
    env::join_paths(rest).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a `runc` of this text.
    fn with_runc(text: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        install(folder.path(), text);
        folder
    }

    fn install(folder: &Path, text: &str) {
        let new = folder.join("new");
        fs::write(&new, script(text)).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, folder.join("runc")).unwrap();
    }

    fn script(text: &str) -> String {
        format!("#!/bin/sh\n{text}\n")
    }

    fn repeat(folder: &Path) -> (OsString, PathBuf) {
        let own = Path::new("/own");
        let path = env::join_paths([own, folder]).unwrap();
        (without(&path, own), folder.join("said"))
    }

    /// What it says without asking, and what it answers when it asks.
    fn known_and_asked(folder: &Path) -> (Option<String>, io::Result<String>) {
        let (path, said) = repeat(folder);
        let it = Repeat { path, said: &said };
        let (runc, file) = it.find().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (it.known(&file).map(text), it.ask(&runc).map(text))
    }

    #[test]
    fn it_is_asked_once_and_another_one_in_its_place_anew() {
        let folder = with_runc("echo one");
        let (known, asked) = known_and_asked(folder.path());
        assert_eq!((known, asked.unwrap()), (None, "one\n".to_owned()));
        let (known, _) = known_and_asked(folder.path());
        assert_eq!(known.as_deref(), Some("one\n"));

        install(folder.path(), "echo two");
        let (known, asked) = known_and_asked(folder.path());
        assert_eq!((known, asked.unwrap()), (None, "two\n".to_owned()));
        // Into the same file, and of the same length.
        fs::write(folder.path().join("runc"), script("echo six")).unwrap();
        let (known, asked) = known_and_asked(folder.path());
        assert_eq!((known, asked.unwrap()), (None, "six\n".to_owned()));

        let entries = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["runc", "said"], "nothing is left beside");
    }

    #[test]
    fn what_fails_is_not_kept() {
        let folder = with_runc("echo half; exit 1");
        assert!(known_and_asked(folder.path()).1.is_err());
        assert_eq!(known_and_asked(folder.path()).0, None);
        assert!(!folder.path().join("said").exists());
    }

    #[test]
    fn what_cannot_be_kept_is_asked_for_again_and_nothing_older_is_said() {
        let folder = with_runc("echo one");
        known_and_asked(folder.path()).1.unwrap();
        install(folder.path(), "echo two");
        // Nothing takes the place of a folder.
        fs::remove_file(folder.path().join("said")).unwrap();
        fs::create_dir(folder.path().join("said")).unwrap();
        for _ in 0..2 {
            let (known, asked) = known_and_asked(folder.path());
            assert_eq!((known, asked.unwrap()), (None, "two\n".to_owned()));
        }
    }

    #[test]
    fn one_that_was_replaced_while_it_was_asked_is_not_kept() {
        let folder = with_runc("echo one; echo '#!/bin/sh' >$0.new; /bin/mv $0.new $0");
        assert_eq!(known_and_asked(folder.path()).1.unwrap(), "one\n");
        assert!(!folder.path().join("said").exists());
    }
}
