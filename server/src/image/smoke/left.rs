//! Folders of trials. Each is locked as long as its trial lives, which is known in that way to processes of every
//! PID namespace; what trials left that were killed before they could remove it is removed by the next one.

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

const PREFIX: &str = "rd-trial-";
/// What `mkdtemp` replaces by letters and digits.
const UNIQUE: &str = "XXXXXX";

/// How often a folder that another trial took for a left one, before it was locked, is replaced by a new one.
const TRIES: u32 = 16;

/// A folder with its lock. Removing it is up to whoever has it.
pub(super) struct Locked {
    pub(super) path: PathBuf,
    lock: Flock<File>,
}

impl Locked {
    /// The lock's file, for those who are to hold it as well.
    pub(super) fn lock(&self) -> &File {
        &self.lock
    }
}

/// Makes a folder in `base` that QEMU's user can pass through, and locks it.
pub(super) fn make(base: &Path) -> io::Result<Locked> {
    for _ in 0..TRIES {
        let template = base.join(format!("{PREFIX}{UNIQUE}"));
        let template = CString::new(template.as_os_str().as_bytes())?;
        let path = nix::unistd::mkdtemp(template.as_c_str())?;
        if let Some(lock) = lock(&path)?
            && is_still(&path, &lock)
        {
            fs::set_permissions(&path, Permissions::from_mode(0o711))?;
            return Ok(Locked { path, lock });
        }
    }
    Err(io::Error::other(
        "other trials removed each folder before it could be locked",
    ))
}

/// The lock of a folder, unless somebody has it, or the folder is gone.
fn lock(folder: &Path) -> io::Result<Option<Flock<File>>> {
    // Others may make folders and links here, too.
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let opened = File::options().read(true).custom_flags(flags).open(folder);
    let opened = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Whether a folder that was opened is the one that has this name now.
fn is_still(path: &Path, opened: &File) -> bool {
    let place = |of: fs::Metadata| (of.dev(), of.ino());
    match (path.symlink_metadata(), opened.metadata()) {
        (Ok(named), Ok(opened)) => place(named) == place(opened),
        _ => false,
    }
}

/// Removes what trials left in `base` that ended without doing so. What is locked stays, and what a process still
/// names on its command line: a machine that could not be ended.
pub(super) fn sweep(base: &Path) -> io::Result<()> {
    let ours = nix::unistd::geteuid().as_raw();
    for entry in fs::read_dir(base)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(is_of_a_trial) {
            continue;
        }
        let Ok(found) = entry.metadata() else {
            // Its trial has just removed it.
            continue;
        };
        let folder = entry.path();
        // Others may make folders here, too.
        if !found.is_dir() || found.uid() != ours {
            continue;
        }
        // Held until the folder is gone, so that no trial begins in it.
        let _lock = match lock(&folder) {
            Ok(Some(lock)) => lock,
            Ok(None) => continue,
            // It is no concern of the trial that is to begin.
            Err(error) => {
                tracing::warn!("{} is left: {error}", folder.display());
                continue;
            }
        };
        if is_named(&folder)? {
            continue;
        }
        tracing::info!(
            "an earlier trial left {}, which is removed",
            folder.display()
        );
        if let Err(error) = fs::remove_dir_all(&folder) {
            tracing::warn!("{} is left: {error}", folder.display());
        }
    }
    Ok(())
}

/// Earlier versions called them by the numbers of their processes.
fn is_of_a_trial(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let all = |is: fn(&u8) -> bool| !rest.is_empty() && rest.as_bytes().iter().all(is);
    all(u8::is_ascii_digit) || (rest.len() == UNIQUE.len() && all(u8::is_ascii_alphanumeric))
}

/// Whether the command line of any process names the folder or something in it.
fn is_named(folder: &Path) -> io::Result<bool> {
    let wanted = folder.as_os_str().as_encoded_bytes();
    for entry in fs::read_dir("/proc")? {
        // One that has ended meanwhile uses nothing.
        let line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let mut rest = line.windows(wanted.len().saturating_add(1));
        let ends = |part: &[u8]| !part[wanted.len()].is_ascii_alphanumeric();
        if rest.any(|part| part.starts_with(wanted) && ends(part)) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_dead_trials_left_goes_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path();
        let dead = make(base).unwrap();
        let (dead, lock) = (dead.path, dead.lock);
        drop(lock);
        // A number that a process has, perhaps in another PID namespace, says nothing.
        let numbered = base.join("rd-trial-1");
        let others = ["rd-trial-of-somebody", "rd-trial-", "rd-trial-a.b-c"];
        let others = others.map(|name| base.join(name));
        for folder in [&dead, &numbered].into_iter().chain(&others) {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join("log"), "words").unwrap();
        }
        let link = base.join("rd-trial-abcdef");
        std::os::unix::fs::symlink(&others[0], &link).unwrap();
        sweep(base).unwrap();
        assert!(!dead.exists() && !numbered.exists());
        assert!(others.iter().all(|it| it.join("log").exists()) && link.is_symlink());
    }

    #[test]
    fn what_a_trial_holds_stays_until_nobody_holds_it_any_more() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path();
        let trial = make(base).unwrap();
        let mode = fs::metadata(&trial.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o711);
        // Its name is no process's, and no command line has it: as of another PID namespace.
        sweep(base).unwrap();
        assert!(trial.path.exists());
        // Its server holds it as well, and goes on when the trial is killed, which gives nothing back itself.
        let Locked { path, lock } = trial;
        let mut server = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(lock.try_clone().unwrap())
            .spawn()
            .unwrap();
        let descriptor = lock.as_raw_fd();
        std::mem::forget(lock);
        nix::unistd::close(descriptor).unwrap();
        sweep(base).unwrap();
        assert!(path.exists());
        drop(server.stdin.take());
        server.wait().unwrap();
        sweep(base).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_that_another_trial_takes_before_it_is_locked_is_no_trial_s() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("rd-trial-abcdef");
        fs::create_dir(&folder).unwrap();
        let sweeper = lock(&folder).unwrap().unwrap();
        assert!(lock(&folder).unwrap().is_none());
        fs::remove_dir(&folder).unwrap();
        assert!(lock(&folder).unwrap().is_none());
        fs::create_dir(&folder).unwrap();
        assert!(!is_still(&folder, &sweeper));
    }

    #[test]
    fn what_a_process_still_uses_stays() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path();
        let folder = base.join("rd-trial-abcdef");
        fs::create_dir(&folder).unwrap();
        let mut user = Command::new("sh")
            .args(["-c", "echo; read word", "--config"])
            .arg(folder.join("config.toml"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It says so when it runs; before, it has no command line.
        user.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        sweep(base).unwrap();
        assert!(folder.exists());
        drop(user.stdin.take());
        user.wait().unwrap();
        sweep(base).unwrap();
        assert!(!folder.exists());
    }
}
