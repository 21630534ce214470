//! `show`: tells all about one lease.

use std::time::Duration;

use super::{context_for, print, which};
use crate::args::{GlobalArgs, ShowArgs, TextFormat};
use crate::environment::Environment;
use crate::error::CliError;
use crate::output;

pub(super) async fn show(
    flags: &GlobalArgs,
    environment: Environment,
    args: &ShowArgs,
) -> Result<u8, CliError> {
    let id = which(&args.lease, &environment)?;
    let context = context_for(id, flags, environment)?;
    let lease = context.client.show(id, Duration::ZERO).await?;
    print(&match args.format.unwrap_or(TextFormat::Text) {
        TextFormat::Text => output::lease_text(&lease),
        TextFormat::Json => output::json_line(&lease),
    })?;
    Ok(0)
}
