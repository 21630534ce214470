//! The docker CLI of this machine, as a process.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

pub(crate) mod plan;

/// Each call takes a moment, or waits in vain for a daemon.
const LIMIT: Duration = Duration::from_secs(20);

/// The CLI could not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DockerError {
    #[error("cannot start `docker`")]
    Start(#[source] io::Error),
    #[error("`docker {command}` failed: {said}")]
    Failed { command: String, said: String },
    #[error("`docker {command}` did not end within {} s", LIMIT.as_secs())]
    Hangs { command: String },
    #[error("there is a docker {what} `{name}` already")]
    Exists { what: &'static str, name: String },
}

impl DockerError {
    /// Whether there is no docker CLI.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Start(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// What a call printed.
pub(crate) struct Printed {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `docker ARGS` without what in the environment points it to a daemon, and without input.
///
/// # Errors
/// It cannot be started, or does not end.
pub(crate) async fn call(args: &[&str]) -> Result<Printed, DockerError> {
    bounded(args, &mut of_no_daemon()).await
}

/// Runs `docker ARGS` with the daemon of a lease: its `DOCKER_HOST` and the folder of its keys.
///
/// # Errors
/// As [`call`].
pub(crate) async fn call_at(args: &[&str], host: &str, keys: &str) -> Result<Printed, DockerError> {
    let mut command = of_no_daemon();
    command
        .env("DOCKER_HOST", host)
        .env("DOCKER_TLS_VERIFY", "1")
        .env("DOCKER_CERT_PATH", keys);
    bounded(args, &mut command).await
}

fn of_no_daemon() -> Command {
    let mut command = Command::new("docker");
    command
        .env_remove("DOCKER_HOST")
        .env_remove("DOCKER_CONTEXT")
        .env_remove("DOCKER_TLS_VERIFY")
        .env_remove("DOCKER_CERT_PATH");
    command
}

async fn bounded(args: &[&str], command: &mut Command) -> Result<Printed, DockerError> {
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(LIMIT, command.output()).await;
    let output = output.map_err(|_| DockerError::Hangs {
        command: args.join(" "),
    })?;
    let output = output.map_err(DockerError::Start)?;
    Ok(Printed {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// The same for a call that must have success; gives what it printed.
///
/// # Errors
/// As [`call`], or it had none.
pub(crate) async fn ok(args: &[&str]) -> Result<String, DockerError> {
    let printed = call(args).await?;
    if printed.success {
        return Ok(printed.stdout);
    }
    let first = printed.stderr.lines().find(|line| !line.is_empty());
    Err(DockerError::Failed {
        command: args.join(" "),
        said: first.unwrap_or("it did not say why").to_owned(),
    })
}
