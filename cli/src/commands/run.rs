//! `run`: runs a command with a leased machine and gives the machine back however that ends.
//!
//! The command stays in this process group, so that it keeps the terminal: it can read from it, be
//! suspended with Ctrl-Z, and gets the terminal's Ctrl-C like any command of the shell. A signal
//! of the terminal has therefore reached it already; one sent to this process alone is passed on.
//! Either way this process waits for the command to end, as the machine is in use until then.
//!
//! While it waits it sends heartbeats, so that the server takes the machine back soon when this process
//! dies without having given it back.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::args::{GlobalArgs, RunArgs};
use crate::config::LeaseAccess;
use crate::environment::Environment;
use crate::error::{CliError, signal_exit_code};
use crate::session::{Context, Session, Terms};
use crate::signals::{Caught, Signals};
use crate::warnings::Warnings;
use crate::watch::watch;

/// How long the server keeps the machine without a sign of life from here.
const KEEPALIVE: Duration = Duration::from_secs(60);

pub(super) async fn run(
    flags: &GlobalArgs,
    environment: Environment,
    args: &RunArgs,
) -> Result<u8, CliError> {
    let context = Context::new(flags, environment, &LeaseAccess::default())?;
    let mut signals = Signals::install().map_err(CliError::Signals)?;
    let terms = Terms {
        keepalive: Some(args.keepalive.unwrap_or(KEEPALIVE)),
        ..Terms::default()
    };
    let session = Session::open(&context, &args.lease, terms, &mut signals).await?;
    let received_at = Instant::now();

    let result = match spawn(&context, &session, args) {
        Ok(mut child) => attend(&context, &session, received_at, &mut child, &mut signals).await,
        Err(error) => Err(error),
    };
    // From here on signals only wait in their pipe: this ends soon, and is what they ask for.
    session.close(&context).await;
    result.map(exit_code)
}

fn spawn(context: &Context, session: &Session, args: &RunArgs) -> Result<Child, CliError> {
    // The command line demands at least one word; an empty name would not be found.
    let empty = OsString::new();
    let (program, rest) = args.command.split_first().unwrap_or((&empty, &[]));
    let mut command = Command::new(program);
    command.args(rest);
    for (name, value) in session.ready().settings() {
        command.env(name, value.unwrap_or_default());
    }
    if context.environment.docker_context.is_some() {
        // `docker` lets DOCKER_HOST win; tools around it may not.
        context
            .ui
            .note("note: DOCKER_CONTEXT is set here and kept from the command");
        command.env_remove("DOCKER_CONTEXT");
    }
    command.spawn().map_err(|source| CliError::Spawn {
        program: program.clone(),
        source,
    })
}

/// Waits for the command to end; passes signals on and looks after the lease meanwhile.
async fn attend(
    context: &Context,
    session: &Session,
    received_at: Instant,
    child: &mut Child,
    signals: &mut Signals,
) -> Result<ExitStatus, CliError> {
    let pid = child.id();
    let mut over = false;
    let warnings = Warnings::new(context.ui);
    let mut watched = pin!(watch(
        &context.client,
        &session.lease,
        received_at,
        &warnings
    ));
    let status = loop {
        tokio::select! {
            biased;
            status = child.wait() => break status.map_err(CliError::Wait)?,
            caught = signals.next() => pass_on(caught, pid),
            () = &mut watched, if !over => over = true,
        }
    };
    // Of a command that a signal ended it is known why.
    if status.code().is_some_and(|code| code != 0) && !over {
        warnings.last_look(&context.client, session.lease.id).await;
    }
    Ok(status)
}

fn pass_on(caught: Caught, pid: Option<u32>) {
    if caught.from_terminal {
        return;
    }
    let pid = pid
        .and_then(|pid| i32::try_from(pid).ok())
        .map(Pid::from_raw);
    if let Some(pid) = pid {
        // The command has not been waited for, so the number is still its own. That it has just
        // ended is no failure.
        let _ = kill(pid, caught.signal);
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(255),
        (None, Some(signal)) => signal_exit_code(signal),
        (None, None) => 255,
    }
}
