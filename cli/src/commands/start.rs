//! `start`: leases a machine and prints how to use it.

use std::io::{self, IsTerminal};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat, makedev};

use super::print;
use super::publish::{self, publish};
use crate::args::{Format, GlobalArgs, StartArgs};
use crate::config::LeaseAccess;
use crate::docker::plan::Plan;
use crate::environment::Environment;
use crate::error::CliError;
use crate::session::{Context, Session, Terms};
use crate::signals::Signals;

/// Whether there was no standard output when this program was started (`>&-`). Rust's runtime puts
/// `/dev/null` in its place, opened for reading and writing, before any code of ours runs. A shell's
/// `>/dev/null` can only be written to: whoever says so means it.
fn stdout_was_closed() -> io::Result<bool> {
    let stdout = io::stdout();
    let access = OFlag::from_bits_truncate(fcntl(&stdout, FcntlArg::F_GETFL)?) & OFlag::O_ACCMODE;
    let file = fstat(&stdout)?;
    let is_null = SFlag::from_bits_truncate(file.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR
        && file.st_rdev == makedev(1, 3);
    Ok(is_null && access == OFlag::O_RDWR)
}

pub(super) async fn start(
    flags: &GlobalArgs,
    environment: Environment,
    args: &StartArgs,
) -> Result<u8, CliError> {
    if stdout_was_closed().map_err(CliError::Stdout)? {
        return Err(CliError::Stdout(Errno::EBADF.into()));
    }
    let context = Context::new(flags, environment, &LeaseAccess::default())?;
    publish::check(&context.environment, &args.output)?;
    let plan = Plan::new(args.context.as_deref(), args.builder.as_deref()).await?;
    let mut signals = Signals::install().map_err(CliError::Signals)?;
    let terms = Terms {
        keepalive: args.keepalive,
        idempotency_key: args.idempotency_key.as_deref(),
        docker: plan.as_ref(),
    };
    let session = Session::open(&context, &args.lease, terms, &mut signals).await?;
    let format = args.output.format();
    if let Err(error) = hand_over(&context, &session, args).await {
        // Nobody got to know of the lease.
        session.close(&context).await;
        return Err(error);
    }
    if let Some(how) = by_hand(format)
        && io::stdout().is_terminal()
    {
        let hint = format!("hint: these lines are for a shell to evaluate: {how}");
        context.ui.note(&hint);
    }
    Ok(0)
}

/// Tells docker and who called this how to use the lease.
async fn hand_over(context: &Context, session: &Session, args: &StartArgs) -> Result<(), CliError> {
    session.set_docker_up().await?;
    match args.output.format() {
        Format::Json => print(&session.ready().json()),
        _ => publish(context, &args.output, &session.ready().settings()),
    }
}

/// How a shell evaluates what is printed for it.
fn by_hand(format: Format) -> Option<&'static str> {
    match format {
        Format::Sh => Some("eval \"$(setup-remote-docker start)\""),
        Format::Fish => Some("setup-remote-docker start --format fish | source"),
        Format::Powershell => {
            Some("setup-remote-docker start --format powershell | Out-String | Invoke-Expression")
        }
        Format::Json | Format::Dotenv | Format::Github | Format::Gitlab => None,
    }
}
