//! A guest becomes a machine of its own. Nothing secret is made before its random numbers are its own.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use guest_protocol::{Activated, Activation};

use crate::keys::TlsIdentity;
use crate::kmsg::Mark;
use crate::{clock, connections, entropy, identity, keys, net};

/// How long the kernel may take to notice the new VM generation id.
const RESEED_PATIENCE: Duration = Duration::from_secs(2);

/// Does all of `order`, whose frame was read at `read_at`. `quiesced` is the place in the kernel's log
/// that the template left behind, if there was one.
///
/// The answer tells what the kernel and the files say afterwards, not what was asked for.
///
/// # Errors
/// The first step that failed. The guest is of no use then.
pub(crate) async fn activate(
    order: &Activation,
    read_at: Instant,
    quiesced: Option<Mark>,
) -> anyhow::Result<(Activated, TlsIdentity)> {
    identity::check(order)?;
    let entropy = entropy::decode(&order.entropy_hex)?;
    if order.unix_time_ns == 0 {
        bail!("the host's time is missing");
    }

    entropy::mix(&entropy)?;
    let since_read = u64::try_from(read_at.elapsed().as_nanos())?;
    clock::set_unix_time_ns(order.unix_time_ns.saturating_add(since_read))
        .context("cannot set the clock")?;
    identity::apply(order)?;
    let (address, (rng_reseeded, tls, ssh_host_key)) = tokio::try_join!(
        net::configure(order.address, order.gateway),
        secrets(order, quiesced)
    )?;

    let (hostname, machine_id) = identity::current()?;
    let activated = Activated {
        csr_pem: tls.csr_pem.clone(),
        ssh_host_key,
        hostname,
        machine_id,
        address,
        rng_reseeded,
        open_connections: connections::open()?,
        unix_time_ns: clock::unix_time_ns()?,
    };
    Ok((activated, tls))
}

/// Waits for the reseed if there is one to come, and only then makes the keys.
async fn secrets(
    order: &Activation,
    quiesced: Option<Mark>,
) -> anyhow::Result<(bool, TlsIdentity, String)> {
    let patience = if order.expect_reseed {
        RESEED_PATIENCE
    } else {
        Duration::ZERO
    };
    let reseeded = match quiesced {
        Some(mut mark) => mark
            .reseeded(patience)
            .await
            .context("cannot read the kernel's log")?,
        None => false,
    };
    let hostname = order.hostname.clone();
    tokio::task::spawn_blocking(move || {
        let tls = keys::tls_identity(&hostname)?;
        Ok((reseeded, tls, keys::ssh_host_key(&hostname)?))
    })
    .await?
}
