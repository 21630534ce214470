//! Takes leave of QEMU processes that ended. libvirt detaches them, so that they outlive it, and
//! waits for a dead one to vanish, which it does when its parent takes note. That would be the
//! host's init; in containers and small machines it does so late or never, and libvirt then waits
//! seconds for each VM that is destroyed. So this process becomes the parent of what it detached.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::{Pid, getpid, getsid};

use super::ends::Ends;

/// How long to wait while there are no children at all.
const IDLE: Duration = Duration::from_millis(50);
/// How long to leave a dead child to whoever started it before looking again.
const LEAVE: Duration = Duration::from_millis(5);
/// After that time, nobody seems to wait for it. libvirt's thread may be slow to on a busy host, and
/// would fail the start of a VM if the child were taken away before.
const PATIENCE: Duration = Duration::from_secs(10);
/// After that time, a dead child that is left alone must not hide those that died after it.
const ALONE: Duration = Duration::from_millis(100);

/// Becomes the parent of detached processes and starts a thread that waits for them, for good, and
/// writes into `ends` how they ended.
///
/// # Errors
/// When the system refuses either.
pub(super) fn start(ends: Arc<Ends>) -> std::io::Result<()> {
    set_child_subreaper(true)?;
    let thread = thread::Builder::new().name("reaper".to_owned());
    thread.spawn(move || run(&ends)).map(|_| ())
}

fn run(ends: &Ends) {
    let Ok(ours) = getsid(None) else { return };
    let mut left_alone: HashMap<Pid, Instant> = HashMap::new();
    loop {
        // Looks only: the dead child stays as it is.
        let found = waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        let first = match found {
            Ok(status) => status.pid(),
            Err(Errno::EINTR) => None,
            Err(_) => {
                thread::sleep(IDLE);
                None
            }
        };
        let Some(first) = first else { continue };
        let mut dead = vec![first];
        // The kernel shows the same one until somebody has taken leave of it.
        let hidden = left_alone.values().any(|since| since.elapsed() > ALONE);
        if hidden {
            dead.extend(dead_children());
        }
        left_alone.retain(|pid, _| dead.contains(pid));
        for pid in dead {
            let since = *left_alone.entry(pid).or_insert_with(Instant::now);
            // An error means that somebody else was faster.
            let session = getsid(Some(pid)).unwrap_or(ours);
            if judge(pid, session, ours, since.elapsed()) {
                if let Ok(status) = waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                    ends.ended(status);
                }
                left_alone.remove(&pid);
            }
        }
        if !left_alone.is_empty() {
            thread::sleep(if hidden { IDLE } else { LEAVE });
        }
    }
}

/// This process's children that have ended, as far as `/proc` shows them. Costs a few milliseconds.
fn dead_children() -> Vec<Pid> {
    let ours = getpid().to_string();
    let is_dead_child = |stat: &str| {
        // The name before the bracket may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        (fields.next()? == "Z" && fields.next()? == ours).then_some(())
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.is_ok_and(|stat| is_dead_child(&stat).is_some())
        })
        .map(Pid::from_raw)
        .collect()
}

/// Whether a dead child is for us to take leave of. Programs that this process runs are in its own
/// session, and whoever ran one waits for it. A process that leads its session may be the middle one
/// of a detachment, which libvirt waits for at once, unless it came from QEMU detaching itself.
/// Everything else was detached.
fn judge(pid: Pid, session: Pid, ours: Pid, left_alone: Duration) -> bool {
    if session == ours {
        return false;
    }
    session != pid || left_alone >= PATIENCE
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn only_what_was_detached_is_taken() {
        let pid = Pid::from_raw;
        let ours = pid(10);
        assert!(
            !judge(pid(20), ours, ours, Duration::ZERO),
            "a program of ours"
        );
        assert!(!judge(pid(20), ours, ours, PATIENCE * 9));
        assert!(
            judge(pid(22), pid(21), ours, Duration::ZERO),
            "a detached process"
        );
        assert!(
            !judge(pid(21), pid(21), ours, Duration::ZERO),
            "libvirt waits for it"
        );
        assert!(judge(pid(21), pid(21), ours, PATIENCE), "nobody does");
    }

    /// Detaches a sleep the way a daemon does.
    fn detach_and_see_it_vanish(limit: Duration) {
        let detach = "setsid sh -c 'sleep 0.1 & echo $!' &";
        let output = Command::new("sh").args(["-c", detach]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let detached: i32 = text.trim().parse().unwrap();
        let started = Instant::now();
        while nix::sys::signal::kill(Pid::from_raw(detached), None).is_ok() {
            assert!(started.elapsed() < limit, "still there");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn one_that_its_owner_is_slow_to_wait_for_is_left_and_hides_nobody() {
        start(Arc::default()).unwrap();
        // As the middle process of a detachment by libvirt, on a host where its thread gets no turn.
        let mut leader = Command::new("setsid").arg("true").spawn().unwrap();
        thread::sleep(Duration::from_secs(1));
        detach_and_see_it_vanish(PATIENCE / 2);
        assert!(leader.wait().unwrap().success(), "its status was taken");
    }

    #[test]
    fn detached_processes_vanish_and_others_can_be_waited_for() {
        start(Arc::default()).unwrap();
        detach_and_see_it_vanish(Duration::from_secs(20));
        for _ in 0..20 {
            let mut child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
            thread::sleep(Duration::from_millis(2));
            assert!(child.wait().unwrap().success(), "its status was taken away");
        }
    }
}
