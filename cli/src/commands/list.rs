//! `list`: shows the leases that have not ended.

use super::print;
use crate::args::{GlobalArgs, ListArgs, ListFormat};
use crate::config::LeaseAccess;
use crate::environment::Environment;
use crate::error::CliError;
use crate::output;
use crate::session::Context;

pub(super) async fn list(
    flags: &GlobalArgs,
    environment: Environment,
    args: &ListArgs,
) -> Result<u8, CliError> {
    let context = Context::new(flags, environment, &LeaseAccess::default())?;
    let list = context.client.list().await?;
    print(&match args.format.unwrap_or(ListFormat::Table) {
        ListFormat::Table => output::table(&list),
        ListFormat::Json => output::json_line(&list),
    })?;
    Ok(0)
}
