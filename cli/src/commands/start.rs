//! `start`: leases a machine and prints how to use it.

use std::io::{self, IsTerminal};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat, makedev};

use super::print;
use crate::args::{GlobalArgs, StartArgs, StartFormat};
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
    let context = Context::new(flags, environment, None)?;
    let mut signals = Signals::install().map_err(CliError::Signals)?;
    let terms = Terms {
        keepalive: args.keepalive,
        idempotency_key: args.idempotency_key.as_deref(),
    };
    let session = Session::open(&context, &args.lease, terms, &mut signals).await?;
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
