//! The commands, one file each.

use std::io::{self, IsTerminal, Write};
use std::str::FromStr;

use remote_docker_api::LeaseId;

use crate::args::{Command, GlobalArgs};
use crate::environment::Environment;
use crate::error::CliError;

mod list;
mod publish;
mod run;
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

/// Reads a lease id from the command line or the environment.
fn lease_id(text: &str, origin: &'static str) -> Result<LeaseId, CliError> {
    LeaseId::from_str(text).map_err(|source| CliError::BadLeaseId { origin, source })
}
