//! Variables on their way to whoever sets them: standard output, or a file that a CI system reads.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::print;
use crate::args::{Format, OutputArgs};
use crate::environment::Environment;
use crate::error::CliError;
use crate::exports::{self, Setting};
use crate::session::Context;

/// Where the report for GitLab is written unless a file is named.
const GITLAB_FILE: &str = "setup-remote-docker.env";

/// Sees to it that there is a place to write to, before a machine is taken.
///
/// # Errors
/// There is none.
pub(super) fn check(environment: &Environment, args: &OutputArgs) -> Result<(), CliError> {
    file(environment, args).map(drop)
}

/// Writes the variables to where the format's reader looks for them.
///
/// # Errors
/// They cannot be written, or the format cannot carry them.
pub(super) fn publish(
    context: &Context,
    args: &OutputArgs,
    settings: &[Setting],
) -> Result<(), CliError> {
    let text = exports::write(args.format(), settings)?;
    match file(&context.environment, args)? {
        Some(path) => write(&path, &text, args.format() == Format::Github),
        None => print(&text),
    }
}

fn file(environment: &Environment, args: &OutputArgs) -> Result<Option<PathBuf>, CliError> {
    let file = args.env_file.clone();
    match args.format() {
        Format::Github => match file.or_else(|| environment.github_env.clone()) {
            Some(path) => Ok(Some(path)),
            None => Err(CliError::NoGithubEnv),
        },
        Format::Gitlab => Ok(Some(file.unwrap_or_else(|| GITLAB_FILE.into()))),
        Format::Dotenv => Ok(file),
        Format::Sh | Format::Fish | Format::Powershell | Format::Json => Ok(None),
    }
}

/// GitHub's file is one that all steps add to.
fn write(path: &Path, text: &str, to_what_is_there: bool) -> Result<(), CliError> {
    OpenOptions::new()
        .create(true)
        .append(to_what_is_there)
        .write(true)
        .truncate(!to_what_is_there)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| CliError::EnvFile {
            path: path.to_owned(),
            source,
        })
}
