//! Folders of trials that were killed before they could remove them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const PREFIX: &str = "rd-trial-";

/// The name of the folder of the trial with this process id.
pub(super) fn name(pid: u32) -> String {
    format!("{PREFIX}{pid}")
}

/// Removes what trials left in `base` that ended without doing so. What a process still names on its command
/// line stays: a server that is about to end, or a machine that it could not end.
pub(super) fn sweep(base: &Path) -> io::Result<()> {
    let ours = nix::unistd::geteuid().as_raw();
    for entry in fs::read_dir(base)? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(pid_in) else {
            continue;
        };
        let Ok(found) = entry.metadata() else {
            // Its trial has just removed it.
            continue;
        };
        let folder = entry.path();
        // Others may make folders here, too.
        let is_ours = found.is_dir() && found.uid() == ours;
        // Of one with the number of this process this process knows that it is not its own.
        let may_run = pid != std::process::id() && Path::new(&format!("/proc/{pid}")).exists();
        if !is_ours || may_run || is_named(&folder)? {
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

fn pid_in(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

/// Whether the command line of any process names the folder or something in it.
fn is_named(folder: &Path) -> io::Result<bool> {
    let wanted = folder.as_os_str().as_encoded_bytes();
    for entry in fs::read_dir("/proc")? {
        // One that has ended meanwhile uses nothing.
        let line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let mut rest = line.windows(wanted.len().saturating_add(1));
        if rest.any(|part| part.starts_with(wanted) && !part[wanted.len()].is_ascii_digit()) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;

    /// Numbers that no process has.
    fn nobody(number: u32) -> u32 {
        let most = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
        most.trim().parse::<u32>().unwrap() + number
    }

    #[test]
    fn what_dead_trials_left_goes_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path();
        let dead = base.join(name(nobody(1)));
        let same_number = base.join(name(std::process::id()));
        let alive = base.join(name(1));
        let other = base.join("rd-trial-of-somebody");
        for folder in [&dead, &same_number, &alive, &other] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("log"), "words").unwrap();
        }
        let link = base.join(name(nobody(2)));
        std::os::unix::fs::symlink(&other, &link).unwrap();
        sweep(base).unwrap();
        assert!(!dead.exists() && !same_number.exists() && alive.exists());
        assert!(other.join("log").exists() && link.is_symlink());
    }

    #[test]
    fn what_a_process_still_uses_stays() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path();
        let folder = base.join(name(nobody(1)));
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
