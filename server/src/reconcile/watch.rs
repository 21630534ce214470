//! Follows the channels of VMs that are handed out: tells what their guests say, and notices at once
//! when a machine dies.

use std::time::{Duration, Instant};

use guest_protocol::Event;

use super::Reconciler;
use super::jobs::{Context, Outcome};
use crate::clock::random_bytes;
use crate::guest::{Link, Occurrence, printable};
use crate::ids::VmId;
use crate::lease::{VmPhase, VmRow};

/// How long the channel of a VM is left alone before it is followed again.
const PAUSE: Duration = Duration::from_secs(2);

/// How many events of one guest are logged before it is no longer listened to; a hostile guest must
/// not fill the log.
const EVENTS_LOGGED: u32 = 1000;

impl Reconciler {
    /// Follows the assigned VMs that nobody follows: after a restart, or after a channel failed.
    pub(super) fn watch_assigned(&mut self, vms: &[VmRow]) {
        for vm in vms {
            let assigned = matches!(vm.phase, VmPhase::Assigned { .. });
            if assigned && !self.memory.monitors.contains_key(&vm.id) {
                self.spawn_watcher(vm.id, reconnect(self.context.clone(), vm.id));
            }
        }
    }
}

/// Connects again and follows.
async fn reconnect(context: Context, vm: VmId) -> Outcome {
    match (context.hypervisor.channel(vm).await, random_bytes()) {
        (Ok(channel), Ok(nonce)) => {
            let began = Instant::now();
            let outcome = follow(vm, Link::new(channel, u32::from_ne_bytes(nonce))).await;
            // A channel that closes as soon as it is opened must not keep the loop busy.
            tokio::time::sleep(PAUSE.saturating_sub(began.elapsed())).await;
            outcome
        }
        _ => {
            tokio::time::sleep(PAUSE).await;
            Outcome::ChannelClosed { vm }
        }
    }
}

/// Follows until the channel ends or the guest is no longer worth listening to.
pub(super) async fn follow(vm: VmId, mut link: Link) -> Outcome {
    for _ in 0..EVENTS_LOGGED {
        match link.next().await {
            Ok(Occurrence::Event(Event::DaemonExited { daemon, status })) => {
                let (daemon, status) = (printable(&daemon), printable(&status));
                tracing::warn!(%vm, daemon, status, "{daemon} in {vm} ended ({status}) and is started again");
            }
            Ok(Occurrence::Event(Event::Phase(phase))) => {
                tracing::debug!(%vm, ?phase, "{vm} is {phase:?}");
            }
            Ok(Occurrence::Closed) => return Outcome::ChannelClosed { vm },
            Err(error) => {
                tracing::warn!(%vm, error = &error as &dyn std::error::Error, "the channel of {vm} failed");
                tokio::time::sleep(PAUSE).await;
                return Outcome::ChannelClosed { vm };
            }
        }
    }
    tracing::warn!(%vm, "{vm} said more than {EVENTS_LOGGED} things: it is not listened to any more");
    std::future::pending().await
}
