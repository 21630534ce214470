//! `ssh`: a shell or a command on the machine of a lease. `ssh-config`: the same for other programs that
//! speak SSH.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use remote_docker_api::LeaseId;

use super::{print, which};
use crate::args::{SshArgs, SshConfigArgs, WhichLease};
use crate::environment::Environment;
use crate::error::CliError;
use crate::lease_dir::LeaseDir;
use crate::output::sh_quote;
use crate::signals::Signals;
use crate::ssh::{self, Connection, Endpoint, Wanted};

/// What the machine's host is called in the configuration, beside the lease's id.
const ALIAS: &str = "remote-docker";

pub(super) async fn ssh(environment: Environment, args: SshArgs) -> Result<u8, CliError> {
    let named = WhichLease { id: args.lease };
    let (_, dir) = folder(&named, &environment)?;
    let endpoint = Endpoint::of(&dir)?;
    if args.stdio {
        ssh::pipe(endpoint, tokio::io::stdin(), tokio::io::stdout()).await?;
        return Ok(0);
    }
    let mut signals = Signals::install().map_err(CliError::Signals)?;
    let connection = tokio::select! {
        connection = Connection::open(endpoint) => Arc::new(connection?),
        caught = signals.next() => return Err(CliError::Interrupted(caught.signal)),
    };
    for forward in args.forwards {
        connection.forward(forward).await?;
    }
    if args.no_command {
        let caught = tokio::select! {
            caught = signals.next() => caught,
            () = connection.ended() => return Err(ssh::SshError::BrokeOff.into()),
        };
        return Err(CliError::Interrupted(caught.signal));
    }
    // As `ssh` does it: the shell of the machine sees the words with blanks between them.
    let words: Vec<&[u8]> = args.command.iter().map(|word| word.as_bytes()).collect();
    let wanted = Wanted {
        command: (!words.is_empty()).then(|| words.join(&b' ')),
        tty: args.tty,
        term: environment
            .term
            .clone()
            .unwrap_or_else(|| "xterm".to_owned()),
    };
    connection.run(wanted, &mut signals).await
}

pub(super) fn ssh_config(environment: &Environment, args: &SshConfigArgs) -> Result<u8, CliError> {
    let (id, dir) = folder(&args.lease, environment)?;
    let endpoint = Endpoint::of(&dir)?;
    // Between quotes of the file, these have a meaning of their own.
    if dir.path().contains(['"', '\\', '$', '\n']) {
        return Err(CliError::OddPath(dir.path().into()));
    }
    let program = std::env::current_exe().map_err(CliError::OwnPath)?;
    print(&config(id, &dir, endpoint.user(), &program))?;
    Ok(0)
}

/// In the words of `ssh_config(5)`.
fn config(id: LeaseId, dir: &LeaseDir, user: &str, program: &Path) -> String {
    // `ssh` replaces what follows a percent sign.
    let escape = |text: &str| text.replace('%', "%%");
    // A command line for the user's shell.
    let keys = escape(&sh_quote(dir.path()));
    let program = escape(&sh_quote(&program.to_string_lossy()));
    let known_hosts = escape(&dir.known_hosts().to_string_lossy());
    format!(
        "Host {ALIAS} {id}\n\
         \x20   User {user}\n\
         \x20   HostKeyAlias {id}\n\
         \x20   UserKnownHostsFile \"{known_hosts}\"\n\
         \x20   GlobalKnownHostsFile none\n\
         \x20   StrictHostKeyChecking yes\n\
         \x20   PreferredAuthentications none\n\
         \x20   ProxyCommand env DOCKER_CERT_PATH={keys} {program} ssh --stdio --lease {id}\n"
    )
}

/// The folder of the lease, which must be on this machine: nobody else has its keys.
fn folder(named: &WhichLease, environment: &Environment) -> Result<(LeaseId, LeaseDir), CliError> {
    let id = which(named, environment)?;
    let dir = LeaseDir::find(environment, id).ok_or(CliError::NoKeys(id))?;
    Ok((id, dir))
}
