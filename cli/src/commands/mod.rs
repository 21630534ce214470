//! The commands, one file each.

use std::io::{self, IsTerminal, Write};
use std::str::FromStr;

use remote_docker_api::LeaseId;

use crate::args::{Command, GlobalArgs, WhichLease};
use crate::environment::Environment;
use crate::error::CliError;
use crate::lease_dir::LeaseDir;
use crate::session::Context;

mod doctor;
mod extend;
mod generate;
mod list;
mod logs;
mod publish;
mod run;
mod show;
mod ssh;
mod start;
mod stop;

/// Does what was asked; the result is the program's exit code.
///
/// # Errors
/// Why it could not be done.
pub(crate) async fn dispatch(
    flags: &GlobalArgs,
    environment: Environment,
    command: Command,
) -> Result<u8, CliError> {
    match command {
        Command::Start(args) => start::start(flags, environment, &args).await,
        Command::Run(args) => run::run(flags, environment, &args).await,
        Command::Stop(args) => stop::stop(flags, environment, &args).await,
        Command::List(args) => list::list(flags, environment, &args).await,
        Command::Show(args) => show::show(flags, environment, &args).await,
        Command::Extend(args) => extend::extend(flags, environment, &args).await,
        Command::Logs(args) => logs::logs(flags, environment, &args).await,
        Command::Ssh(args) => ssh::ssh(environment, args).await,
        Command::SshConfig(args) => ssh::ssh_config(&environment, &args),
        Command::Doctor(args) => doctor::doctor(flags, environment, &args).await,
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
    }
}

/// Prints what fails, for a shell that evaluates what `start` prints.
pub(crate) fn print_failure(text: Option<&str>) {
    if let Some(text) = text
        && !io::stdout().is_terminal()
    {
        // The error is told already; that it cannot be told here as well adds nothing.
        let _ = print(text);
    }
}

/// Prints data for other programs.
fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(CliError::Stdout)
}

/// The lease that a command is about: the one that is named, or that of this shell.
fn which(args: &WhichLease, environment: &Environment) -> Result<LeaseId, CliError> {
    let read = |text: &str, origin| {
        LeaseId::from_str(text).map_err(|source| CliError::BadLeaseId { origin, source })
    };
    match (&args.id, &environment.lease) {
        (Some(named), _) => read(named, "the argument"),
        (None, Some(variable)) => read(variable, "REMOTE_DOCKER_LEASE"),
        (None, None) => Err(CliError::NoLease),
    }
}

/// A context for the server that made the lease, if that is noted on this machine.
fn context_for(
    lease: LeaseId,
    flags: &GlobalArgs,
    environment: Environment,
) -> Result<Context, CliError> {
    let access = LeaseDir::find(&environment, lease).map(|dir| dir.access());
    Context::new(flags, environment, &access.unwrap_or_default())
}
