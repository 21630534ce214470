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
    /// What was said.
    said: &'a Path,
    /// The very file that said it, which another one that is installed in its place is not, however old that seems.
    asked: &'a Path,
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
        asked: &own.join("asked"),
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
        let asked = fs::metadata(self.asked).ok()?;
        let is_same = (asked.dev(), asked.ino()) == (runc.dev(), runc.ino());
        let text = fs::read(self.said).ok().filter(|_| is_same)?;
        (!text.is_empty()).then_some(text)
    }

    /// Has it say it, and keeps that: the text last, as it counts only with the file that said it.
    fn ask(&self, runc: &Path) -> io::Result<Vec<u8>> {
        let Output { status, stdout, .. } = self.command(runc).arg("--version").output()?;
        if !status.success() {
            return Err(io::Error::other("no version"));
        }
        // Another one may do the same at the same time.
        let own = std::process::id().to_string();
        let beside = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(".");
            name.push(&own);
            PathBuf::from(name)
        };
        let (said, asked) = (beside(self.said), beside(self.asked));
        let kept = fs::hard_link(fs::canonicalize(runc)?, &asked)
            .and_then(|()| fs::rename(&asked, self.asked))
            .and_then(|()| fs::write(&said, &stdout))
            .and_then(|()| fs::rename(&said, self.said));
        // What was renamed is not there any more, unless both names were one file's before.
        for left in [&said, &asked] {
            let _ = fs::remove_file(left);
        }
        kept.map(|()| stdout)
    }
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
        fs::write(
            &new,
            format!("#!/bin/sh\necho asked >>\"$0.log\"\n{text}\n"),
        )
        .unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, folder.join("runc")).unwrap();
    }

    fn repeat(folder: &Path, and: impl FnOnce(&Repeat<'_>, &Path)) {
        let repeat = Repeat {
            path: without(
                &env::join_paths([Path::new("/own"), folder]).unwrap(),
                Path::new("/own"),
            ),
            said: &folder.join("said"),
            asked: &folder.join("asked"),
        };
        let (runc, _) = repeat.find().unwrap();
        and(&repeat, &runc);
    }

    #[test]
    fn it_is_asked_once_and_another_one_in_its_place_anew() {
        let folder = with_runc("echo one");
        let known = |folder: &Path| {
            let mut text = None;
            repeat(folder, |it, runc| {
                text = it.known(&fs::metadata(runc).unwrap());
            });
            text.map(|text| String::from_utf8(text).unwrap())
        };
        assert_eq!(known(folder.path()), None);
        repeat(folder.path(), |it, runc| {
            assert_eq!(it.ask(runc).unwrap(), b"one\n");
        });
        assert_eq!(known(folder.path()).as_deref(), Some("one\n"));
        // As often as one likes, and nothing is left beside.
        repeat(folder.path(), |it, runc| drop(it.ask(runc).unwrap()));
        install(folder.path(), "echo two");
        assert_eq!(known(folder.path()), None);
        repeat(folder.path(), |it, runc| drop(it.ask(runc).unwrap()));
        assert_eq!(known(folder.path()).as_deref(), Some("two\n"));
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["asked", "runc", "runc.log", "said"]);
    }

    #[test]
    fn what_fails_is_not_kept() {
        let folder = with_runc("echo half; exit 1");
        repeat(folder.path(), |it, runc| {
            assert!(it.ask(runc).is_err());
            assert!(it.known(&fs::metadata(runc).unwrap()).is_none());
        });
        assert!(!folder.path().join("said").exists());
    }
}
