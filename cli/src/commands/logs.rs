//! `logs`: shows what the machine of a lease said last.

use super::{context_for, print, which};
use crate::args::{GlobalArgs, LogPart, LogsArgs, TextFormat};
use crate::environment::Environment;
use crate::error::CliError;
use crate::output;

pub(super) async fn logs(
    flags: &GlobalArgs,
    environment: Environment,
    args: &LogsArgs,
) -> Result<u8, CliError> {
    let id = which(&args.lease, &environment)?;
    let context = context_for(id, flags, environment)?;
    let logs = context.client.logs(id).await?;
    print(&match (args.only, args.format) {
        (Some(LogPart::Console), _) => output::visible_lines(&logs.console),
        (Some(LogPart::Docker), _) => output::visible_lines(&logs.docker),
        (None, Some(TextFormat::Json)) => output::json_line(&logs),
        (None, _) => format!(
            "== console\n{}\n== docker\n{}",
            output::visible_lines(&logs.console),
            output::visible_lines(&logs.docker),
        ),
    })?;
    Ok(0)
}
