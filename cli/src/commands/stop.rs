//! `stop`: gives a lease back and removes its folder, at once or after somebody has looked into its machine.

use std::time::Duration;

use remote_docker_api::{ErrorCode, LeaseId, LeaseState};
use tokio::time::{Instant, sleep_until, timeout};

use super::publish::{self, publish};
use super::{print, which};
use crate::args::{Format, GlobalArgs, StopArgs};
use crate::client::{ApiError, Client, Released};
use crate::environment::Environment;
use crate::error::CliError;
use crate::exports::{self, Setting};
use crate::lease_dir::LeaseDir;
use crate::output::{moment, stopped_json};
use crate::session::{Context, whole_seconds};

/// How long `--wait` waits for the machine to be gone.
const END_LIMIT: Duration = Duration::from_secs(120);
/// How long the server may hold one question.
const POLL_WAIT: Duration = Duration::from_secs(10);
/// Questions are at least this far apart, however fast the server answers.
const POLL_PACE: Duration = Duration::from_millis(200);

pub(super) async fn stop(
    flags: &GlobalArgs,
    environment: Environment,
    args: &StopArgs,
) -> Result<u8, CliError> {
    let id = which(&args.lease, &environment)?;
    let of_this_shell = environment.lease == Some(id.to_string());
    let dir = LeaseDir::find(&environment, id);
    let note = dir.as_ref().and_then(LeaseDir::note);
    let access = dir.as_ref().map(LeaseDir::access).unwrap_or_default();
    let context = Context::new(flags, environment, &access)?;
    // The variables of the lease name files that are about to go; those of another lease stay.
    let settings = if of_this_shell {
        let changes = note.as_ref().map_or(&[][..], |note| &note.changes);
        exports::undo(changes, &context.environment)
    } else {
        Vec::new()
    };
    publish::check(&context.environment, &args.output)?;

    if let Some(time) = args.keep_for {
        let kept = context.client.keep(id, whole_seconds(time)).await?;
        if let Some(plan) = note.as_ref().and_then(|note| note.docker.as_ref()) {
            context.put_docker_back(plan, id).await;
        }
        tell(&context, args, id, &settings, of_this_shell)?;
        let until = kept
            .expires_at
            .map_or_else(String::new, |at| format!(" until {}", moment(at)));
        context.ui.note(&format!(
            "lease {id} is kept{until}; `setup-remote-docker ssh --lease {id}` logs in, \
             `setup-remote-docker stop {id}` gives it back"
        ));
        return Ok(0);
    }
    if let Some(plan) = note.as_ref().and_then(|note| note.docker.as_ref()) {
        // As long as its machine is there, for buildx wants to see it.
        context.put_docker_back(plan, id).await;
    }
    let released = context.client.release(id).await;
    // Whatever the server says, the user has no use for the keys any more.
    let removed = dir.map_or(Ok(()), |dir| dir.remove());
    tell(&context, args, id, &settings, of_this_shell)?;
    let released = released.inspect_err(|_| {
        context.ui.warn(&format!(
            "the lease {id} is not given back; unless it is, it ends when its time is over"
        ));
    })?;
    removed?;
    match released {
        Released::Yes => {}
        Released::Unknown => context.ui.note(&format!(
            "the server at {} does not know the lease {id}",
            context.client.server()
        )),
    }
    if args.wait && released == Released::Yes {
        timeout(END_LIMIT, wait_for_end(&context.client, id))
            .await
            .map_err(|_| CliError::StillThere(END_LIMIT.as_secs()))??;
        context
            .ui
            .note(&format!("lease {id} is given back and its machine is gone"));
    } else if released == Released::Yes {
        context.ui.note(&format!("lease {id} is given back"));
    }
    Ok(0)
}

/// Tells which variables to take back.
fn tell(
    context: &Context,
    args: &StopArgs,
    id: LeaseId,
    settings: &[Setting],
    of_this_shell: bool,
) -> Result<(), CliError> {
    match args.output.format() {
        Format::Json => print(&stopped_json(id, settings)),
        _ if of_this_shell => publish(context, &args.output, settings),
        _ => Ok(()),
    }
}

async fn wait_for_end(client: &Client, id: LeaseId) -> Result<(), ApiError> {
    loop {
        let asked_at = Instant::now();
        match client.show(id, POLL_WAIT).await {
            Ok(lease) if lease.state == LeaseState::Ended => return Ok(()),
            // What has ended may be forgotten.
            Err(error) if error.code() == Some(ErrorCode::LeaseNotFound) => return Ok(()),
            Err(error) => return Err(error),
            Ok(_) => sleep_until(asked_at + POLL_PACE).await,
        }
    }
}
