//! One place that waits for children. As PID 1 the agent inherits every orphan of the guest and
//! must reap it, but whoever calls `wait` for "any child" also takes the exit status that a supervisor
//! waits for. So nobody else waits: children are started here, and their status is handed on.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(Signal),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "killed by {signal}"),
        }
    }
}

/// Starts processes and reaps them, together with every orphan.
#[derive(Clone)]
pub(crate) struct Reaper {
    waiting: Arc<Mutex<Waiting>>,
}

/// Who waits for which child.
type Waiting = HashMap<Pid, oneshot::Sender<Exit>>;

/// A child that runs, or ran.
pub(crate) struct Child {
    pub(crate) pid: Pid,
    exit: oneshot::Receiver<Exit>,
}

impl Child {
    /// Waits until it ended. `None` if the reaper is gone, which happens only when the agent ends.
    pub(crate) async fn exit(self) -> Option<Exit> {
        self.exit.await.ok()
    }
}

impl Reaper {
    /// Begins to reap. One per process. Must be called inside the runtime.
    ///
    /// # Errors
    /// The signal handler's.
    pub(crate) fn start() -> io::Result<Self> {
        let reaper = Self {
            waiting: Arc::default(),
        };
        let mut child_ended = signal(SignalKind::child())?;
        let reaping = reaper.clone();
        tokio::spawn(async move {
            // Signals melt together: each means "at least one". What ended before the handler was
            // there is taken by the first round.
            loop {
                reaping.reap();
                if child_ended.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    /// Starts `command`.
    ///
    /// # Errors
    /// As [`Command::spawn`].
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        // The lock is held from before the child exists until it is known: a child that ends at once
        // must not be taken for an orphan.
        let mut waiting = self.lock();
        let child = command.spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        let (tell, exit) = oneshot::channel();
        waiting.insert(pid, tell);
        Ok(Child { pid, exit })
    }

    fn reap(&self) {
        let mut waiting = self.lock();
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal)),
                Err(Errno::EINTR) => continue,
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if let Some(tell) = waiting.remove(&pid) {
                // Nobody listens any more: then it was reaped, which is what mattered.
                let _ = tell.send(exit);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::prctl::set_child_subreaper;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    /// Zombie children of this process.
    fn zombies() -> usize {
        let me = std::process::id().to_string();
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("stat")).ok())
            .filter(|stat| {
                let fields: Vec<&str> = stat
                    .rsplit(')')
                    .next()
                    .unwrap()
                    .split_whitespace()
                    .collect();
                fields[0] == "Z" && fields[1] == me
            })
            .count()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_child_gets_its_own_status_even_if_it_ends_at_once() {
        let reaper = Reaper::start().unwrap();
        let children: Vec<_> = (0..40)
            .map(|code| {
                (
                    code,
                    reaper.spawn(&mut shell(&format!("exit {code}"))).unwrap(),
                )
            })
            .collect();
        for (code, child) in children {
            assert_eq!(child.exit().await, Some(Exit::Code(code)));
        }
        let killed = reaper
            .spawn(&mut shell("kill -9 $$"))
            .unwrap()
            .exit()
            .await
            .unwrap();
        assert_eq!(killed, Exit::Signal(Signal::SIGKILL));
        assert_eq!(killed.to_string(), "killed by SIGKILL");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn orphans_are_reaped_and_their_status_goes_to_nobody() {
        set_child_subreaper(true).unwrap();
        let reaper = Reaper::start().unwrap();
        let parent = reaper
            .spawn(&mut shell("(sleep 0.2; exit 9) & exit 3"))
            .unwrap();
        assert_eq!(parent.exit().await, Some(Exit::Code(3)));
        tokio::time::timeout(Duration::from_secs(10), async {
            // Until the orphan ended, it is alive and no zombie; afterwards it must be neither.
            tokio::time::sleep(Duration::from_millis(400)).await;
            while zombies() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("a zombie stayed");
    }

    #[tokio::test]
    async fn a_program_that_does_not_exist_is_an_error_and_no_child() {
        let reaper = Reaper::start().unwrap();
        assert!(reaper.spawn(&mut Command::new("/no/such/program")).is_err());
        assert!(reaper.lock().is_empty());
    }
}
