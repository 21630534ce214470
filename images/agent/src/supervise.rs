//! Keeps a daemon running, and says when it did not.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::unistd::Pid;

use crate::console::say;
use crate::daemon_log::{self, DaemonLog};
use crate::reaper::Reaper;

/// What the daemons find in their environment besides.
const ENVIRONMENT: [(&str, &str); 2] = [
    // What they trace is meant to be collected; nobody collects it here, and the default is to wake up every five
    // seconds for that. In milliseconds.
    ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
    // Whenever Go collects garbage, which is every two minutes in daemons that do nothing, it would write down anew who
    // took how much memory, for every place that ever took some, to pages that clones share. Nobody asks.
    ("GODEBUG", "memprofilerate=0"),
];

/// A daemon that must always run.
pub(crate) struct Daemon {
    pub(crate) name: &'static str,
    pub(crate) arguments: &'static [&'static str],
    /// Where it finds the programs that it runs.
    pub(crate) path: &'static str,
    /// How unwilling the kernel shall be to end it when memory is short.
    pub(crate) oom_score_adj: i32,
}

/// The process of a daemon, while there is one.
#[derive(Debug, Default)]
pub(crate) struct RunningPid(AtomicI32);

impl RunningPid {
    pub(crate) fn get(&self) -> Option<Pid> {
        let pid = self.0.load(Ordering::Relaxed);
        (pid > 0).then(|| Pid::from_raw(pid))
    }

    fn set(&self, pid: Option<Pid>) {
        self.0.store(pid.map_or(0, Pid::as_raw), Ordering::Relaxed);
    }
}

/// How long to wait before a daemon is started again.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(10);
    /// Whoever ran this long has recovered.
    const HEALTHY: Duration = Duration::from_secs(60);

    fn after(&mut self, ran_for: Duration) -> Duration {
        if ran_for >= Self::HEALTHY {
            self.failures = 0;
        }
        let pause = Self::FIRST.saturating_mul(2u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        pause.min(Self::LONGEST)
    }
}

/// Runs the daemon, again and again. `exited` hears how it ended, in words, each time before it is
/// started again. `running` is written here.
///
/// # Errors
/// No log can be had. A daemon that cannot be started is not an error but an end of the daemon.
pub(crate) async fn keep_running(
    daemon: Daemon,
    reaper: Reaper,
    running: &RunningPid,
    exited: impl Fn(String),
) -> anyhow::Result<std::convert::Infallible> {
    let name = daemon.name;
    let log = DaemonLog::start(name, &daemon_log::path(name))
        .with_context(|| format!("cannot collect the output of {name}"))?;
    let mut backoff = Backoff::default();
    loop {
        let started = Instant::now();
        let ended = match run_once(&daemon, &reaper, running, &log).await {
            Ok(ended) => ended,
            Err(error) => format!("cannot be started: {error}"),
        };
        let pause = backoff.after(started.elapsed());
        say!("{name}: {ended}; again in {} ms", pause.as_millis());
        for line in log.take_tail() {
            say!("  {name}: {line}");
        }
        exited(ended);
        tokio::time::sleep(pause).await;
    }
}

async fn run_once(
    daemon: &Daemon,
    reaper: &Reaper,
    running: &RunningPid,
    log: &DaemonLog,
) -> std::io::Result<String> {
    let child = reaper.spawn(
        Command::new(daemon.name)
            .args(daemon.arguments)
            .env_clear()
            .env("PATH", daemon.path)
            .env("HOME", "/root")
            .envs(ENVIRONMENT)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.sink()?)
            .stderr(log.sink()?),
    )?;
    let score = format!("/proc/{}/oom_score_adj", child.pid);
    if let Err(error) = std::fs::write(score, daemon.oom_score_adj.to_string()) {
        say!("{}: OOM score: {error}", daemon.name);
    }
    running.set(Some(child.pid));
    let exit = child.exit().await;
    running.set(None);
    Ok(exit.map_or_else(|| "lost".to_owned(), |exit| exit.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_over_after_a_long_run() {
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(1);
        let pauses: Vec<u128> = (0..9).map(|_| backoff.after(short).as_millis()).collect();
        assert_eq!(
            pauses,
            [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
        );
        for _ in 0..100 {
            assert_eq!(backoff.after(short), Backoff::LONGEST);
        }
        assert_eq!(backoff.after(Backoff::HEALTHY), Backoff::FIRST);
    }
}
