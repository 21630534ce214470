//! `start`: leases a machine and prints how to use it.

use std::io::{self, IsTerminal};

use super::print;
use crate::args::{GlobalArgs, StartArgs, StartFormat};
use crate::environment::Environment;
use crate::error::CliError;
use crate::session::{Context, Session};
use crate::signals::Signals;

pub(super) async fn start(
    flags: &GlobalArgs,
    environment: Environment,
    args: &StartArgs,
) -> Result<u8, CliError> {
    let context = Context::new(flags, environment, None)?;
    let mut signals = Signals::install().map_err(CliError::Signals)?;
    let session = Session::open(&context, &args.lease, &mut signals).await?;
    let format = args.format.unwrap_or(StartFormat::Sh);
    let text = match format {
        StartFormat::Sh => session.ready().sh(),
        StartFormat::Json => session.ready().json(),
    };
    if let Err(error) = print(&text) {
        // Nobody got to know of the lease.
        session.close(&context).await;
        return Err(error);
    }
    if format == StartFormat::Sh && io::stdout().is_terminal() {
        context.ui.note(
            "hint: these lines are for a shell to evaluate: eval \"$(setup-remote-docker start)\"",
        );
    }
    Ok(0)
}
