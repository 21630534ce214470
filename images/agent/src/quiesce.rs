//! Making the guest fit to be copied: little memory in use, nothing under way, and what a clone needs
//! first at hand.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};

use crate::kmsg::Mark;
use crate::{connections, docker};

/// How long the daemon may take to answer, and to close its end of a connection afterwards.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// Prepares. The mark is the place in the kernel's log after which a clone's own lines come.
///
/// # Errors
/// The daemon does not answer, or somebody is connected to it.
pub(crate) async fn quiesce() -> anyhow::Result<Mark> {
    drop_caches().await?;
    // What a client asks first is read again from disk and made resident, once here instead of in
    // every clone.
    for path in docker::HOT_PATHS {
        docker::get(path, PATIENCE)
            .await
            .with_context(|| format!("warming up {path}"))?;
    }
    nix::unistd::sync();
    no_connections().await?;
    Mark::now().context("cannot read the kernel's log")
}

async fn drop_caches() -> anyhow::Result<()> {
    tokio::task::spawn_blocking(|| {
        // Only clean pages can be dropped.
        nix::unistd::sync();
        std::fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop caches")
    })
    .await?
}

async fn no_connections() -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match connections::open()? {
            0 => return Ok(()),
            count if Instant::now() > deadline => {
                bail!("{count} connections to the Docker daemon are open")
            }
            _ => sleep(POLL).await,
        }
    }
}
