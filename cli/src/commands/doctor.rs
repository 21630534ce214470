//! `doctor`: looks for what could keep this program, or the docker CLI, from using a machine.

use super::print;
use crate::args::{DoctorArgs, GlobalArgs, TextFormat};
use crate::doctor::{examine, report};
use crate::environment::Environment;
use crate::error::CliError;

pub(super) async fn doctor(
    flags: &GlobalArgs,
    environment: Environment,
    args: &DoctorArgs,
) -> Result<u8, CliError> {
    let findings = examine(flags, &environment).await;
    print(&match args.format.unwrap_or(TextFormat::Text) {
        TextFormat::Text => report::text(&findings),
        TextFormat::Json => report::json(&findings),
    })?;
    Ok(u8::from(!report::is_well(&findings)))
}
