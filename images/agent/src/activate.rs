//! A guest becomes a machine of its own. Nothing secret is made before its random numbers are its own.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use guest_protocol::{Activated, Activation};

use crate::identity::{SSH_KEY, SSH_PUBLIC_KEY};
use crate::keys::TlsIdentity;
use crate::kmsg::Mark;
use crate::net::{self, Card};
use crate::{clock, connections, docker, entropy, identity, keys};

/// How long the kernel may take to notice the new VM generation id.
const RESEED_PATIENCE: Duration = Duration::from_secs(2);

/// Whether the daemon answers is for others to find out.
const WARM_UP_PATIENCE: Duration = Duration::from_secs(10);

/// Does all of `order`, whose frame was read at `read_at`. `quiesced` is the place in the kernel's log
/// that the template left behind, if there was one. `settings` gives the daemon what the site says; it is
/// done beside the rest.
///
/// The answer tells what the kernel and the files say afterwards, not what was asked for.
///
/// # Errors
/// The first step that failed. The guest is of no use then.
pub(crate) async fn activate(
    order: &Activation,
    read_at: Instant,
    card: Card,
    quiesced: Option<&mut Mark>,
    settings: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<(Activated, TlsIdentity)> {
    identity::check(order)?;
    let entropy = entropy::decode(&order.entropy_hex)?;
    if order.unix_time_ns == 0 {
        bail!("the host's time is missing");
    }

    // Counted before anything of this activation could be among them.
    let open_connections = connections::open()?;
    entropy::mix(&entropy)?;
    let since_read = u64::try_from(read_at.elapsed().as_nanos())?;
    clock::set_unix_time_ns(order.unix_time_ns.saturating_add(since_read))
        .context("cannot set the clock")?;
    // Beside all that follows, whose end does not wait for it: a machine has two processors or more.
    tokio::spawn(docker::warm_up(WARM_UP_PATIENCE));
    let (own, gateway, mac) = (order.address, order.gateway, order.gateway_mac);
    let (address, names, (rng_reseeded, tls, ssh_host_key), ()) = tokio::try_join!(
        beside(move || net::configure(card, own, gateway, mac)),
        names(order),
        secrets(order, quiesced),
        settings
    )?;

    let (hostname, machine_id) = names;
    let activated = Activated {
        csr_pem: tls.csr_pem.clone(),
        ssh_host_key,
        hostname,
        machine_id,
        address,
        rng_reseeded,
        open_connections,
        has_site: true,
        unix_time_ns: clock::unix_time_ns()?,
    };
    Ok((activated, tls))
}

/// Sets the names, and tells what they are then.
async fn names(order: &Activation) -> anyhow::Result<(String, String)> {
    let order = order.clone();
    beside(move || {
        identity::apply(&order)?;
        identity::current()
    })
    .await
}

/// Waits for the reseed if there is one to come, and only then makes the keys.
async fn secrets(
    order: &Activation,
    quiesced: Option<&mut Mark>,
) -> anyhow::Result<(bool, TlsIdentity, String)> {
    let patience = if order.expect_reseed {
        RESEED_PATIENCE
    } else {
        Duration::ZERO
    };
    let reseeded = match quiesced {
        Some(mark) => mark
            .reseeded(patience)
            .await
            .context("cannot read the kernel's log")?,
        None => false,
    };
    let (for_tls, for_ssh) = (order.hostname.clone(), order.hostname.clone());
    let (tls, ssh_public_key) = tokio::try_join!(
        beside(move || keys::tls_identity(&for_tls)),
        beside(move || {
            let key = keys::ssh_host_key(&for_ssh)?;
            SSH_KEY.write(&key.private)?;
            SSH_PUBLIC_KEY.write(&format!("{}\n", key.public))?;
            Ok(key.public)
        })
    )?;
    Ok((reseeded, tls, ssh_public_key))
}

/// Does some milliseconds of work beside the caller's, on the runtime's own threads: a blocking one
/// would have to be made first, which takes as long.
async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::spawn(async move { work() }).await?
}
