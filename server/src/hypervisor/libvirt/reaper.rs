//! Takes leave of QEMU processes that ended. libvirt detaches them, so that they outlive it, and
//! waits for a dead one to vanish, which it does when its parent takes note. That would be the
//! host's init; in containers and small machines it does so late or never, and libvirt then waits
//! seconds for each VM that is destroyed. So this process becomes the parent of what it detached.

use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::{Pid, getsid};

/// How long to wait while there are no children at all.
const IDLE: Duration = Duration::from_millis(50);
/// How long to leave a dead child to whoever started it before looking again.
const LEAVE: Duration = Duration::from_millis(5);
/// After that many looks, nobody seems to wait for it.
const PATIENCE: u32 = 20;

/// Becomes the parent of detached processes and starts a thread that waits for them, for good.
///
/// # Errors
/// When the system refuses either.
pub(super) fn start() -> std::io::Result<()> {
    set_child_subreaper(true)?;
    let thread = thread::Builder::new().name("reaper".to_owned());
    thread.spawn(run).map(|_| ())
}

fn run() {
    let Ok(ours) = getsid(None) else { return };
    let mut left_alone: Option<(Pid, u32)> = None;
    loop {
        // Looks only: the dead child stays as it is.
        let found = waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        let pid = match found {
            Ok(status) => status.pid(),
            Err(Errno::EINTR) => None,
            Err(_) => {
                thread::sleep(IDLE);
                None
            }
        };
        let Some(pid) = pid else { continue };
        let looks = match left_alone {
            Some((same, looks)) if same == pid => looks + 1,
            _ => 0,
        };
        // An error means that somebody else was faster.
        let session = getsid(Some(pid)).unwrap_or(ours);
        if judge(pid, session, ours, looks) {
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            left_alone = None;
        } else {
            left_alone = Some((pid, looks));
            thread::sleep(LEAVE);
        }
    }
}

/// Whether a dead child is for us to take leave of. Programs that this process runs are in its own
/// session, and whoever ran one waits for it. A process that leads its session may be the middle one
/// of a detachment, which libvirt waits for at once, unless it came from QEMU detaching itself.
/// Everything else was detached.
fn judge(pid: Pid, session: Pid, ours: Pid, looks: u32) -> bool {
    if session == ours {
        return false;
    }
    session != pid || looks >= PATIENCE
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use super::*;

    #[test]
    fn only_what_was_detached_is_taken() {
        let pid = Pid::from_raw;
        let ours = pid(10);
        assert!(!judge(pid(20), ours, ours, 0), "a program of ours");
        assert!(!judge(pid(20), ours, ours, 1000));
        assert!(judge(pid(22), pid(21), ours, 0), "a detached process");
        assert!(!judge(pid(21), pid(21), ours, 0), "libvirt waits for it");
        assert!(judge(pid(21), pid(21), ours, PATIENCE), "nobody does");
    }

    #[test]
    fn detached_processes_vanish_and_others_can_be_waited_for() {
        start().unwrap();
        // Detaches a sleep the way a daemon does, and prints its process id.
        let detach = "setsid sh -c 'sleep 0.1 & echo $!' &";
        let output = Command::new("sh").args(["-c", detach]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let detached: i32 = text.trim().parse().unwrap();
        let started = Instant::now();
        while nix::sys::signal::kill(Pid::from_raw(detached), None).is_ok() {
            assert!(started.elapsed() < Duration::from_secs(20), "still there");
            thread::sleep(Duration::from_millis(5));
        }
        for _ in 0..20 {
            let mut child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
            thread::sleep(Duration::from_millis(2));
            assert!(child.wait().unwrap().success(), "its status was taken away");
        }
    }
}
