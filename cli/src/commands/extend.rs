//! `extend`: makes a lease last longer.

use super::{context_for, which};
use crate::args::{ExtendArgs, GlobalArgs};
use crate::environment::Environment;
use crate::error::CliError;
use crate::output::moment;
use crate::session::whole_seconds;

pub(super) async fn extend(
    flags: &GlobalArgs,
    environment: Environment,
    args: &ExtendArgs,
) -> Result<u8, CliError> {
    let id = which(&args.lease, &environment)?;
    let context = context_for(id, flags, environment)?;
    let lease = context.client.extend(id, whole_seconds(args.by)).await?;
    let Some(end) = lease.expires_at else {
        let what = "it does not say until when the lease lasts";
        return Err(context.client.unusable(what, None).into());
    };
    context
        .ui
        .note(&format!("lease {id} lasts until {}", moment(end)));
    Ok(0)
}
