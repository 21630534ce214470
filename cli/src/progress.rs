//! Tells how far a machine is while its lease is waited for.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use remote_docker_api::{Doing, Lease, LeaseId, LeaseState, Queue};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};

use crate::client::{ApiError, Client};
use crate::ui::Ui;

/// A machine that is ready sooner needs no words.
const FIRST_LOOK: Duration = Duration::from_millis(700);
/// Between two looks.
const PACE: Duration = Duration::from_secs(1);

/// Follows the lease that was asked for with this certificate request and tells where it stands. Never
/// resolves: that there is an answer is for the request itself to find out. What cannot be seen is not
/// told, as nothing depends on it.
pub(crate) async fn follow(client: &Client, csr_pem: &str, ui: Ui) -> Infallible {
    if !ui.tells() {
        return pending().await;
    }
    let digest = Sha256::digest(csr_pem.as_bytes());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let asked_at = Instant::now();
    let mut told = None;
    let mut known = None;
    ui.status(WAITING);
    sleep(FIRST_LOOK).await;
    loop {
        if let Ok(Some(lease)) = look(client, &digest, &mut known).await
            && let (LeaseState::Waiting, Some(queue)) = (lease.state, &lease.queue)
        {
            let step = step(queue);
            if ui.redraws() {
                let seconds = asked_at.elapsed().as_secs();
                ui.status(&format!("{step}{}, {seconds} s so far", to_go(queue)));
            } else if told.as_ref() != Some(&step) {
                ui.note(&format!("{step}{}", to_go(queue)));
                told = Some(step);
            }
        }
        sleep(PACE).await;
    }
}

const WAITING: &str = "waiting for a machine …";

/// The lease as it is now, if it can be found.
async fn look(
    client: &Client,
    digest: &str,
    known: &mut Option<LeaseId>,
) -> Result<Option<Lease>, ApiError> {
    if let Some(id) = *known {
        return client.show(id, Duration::ZERO).await.map(Some);
    }
    let mut leases = client.list().await?.leases.into_iter();
    let own = leases.find(|lease| lease.csr_sha256.as_deref() == Some(digest));
    *known = own.as_ref().map(|lease| lease.id);
    Ok(own)
}

/// What is being done for a lease that waits.
pub(crate) fn step(queue: &Queue) -> String {
    match queue.doing {
        Doing::Queued | Doing::Unknown => format!("queued at place {}", queue.position),
        Doing::BuildingTemplate => "making the template of its kind".to_owned(),
        Doing::Cloning => "cloning".to_owned(),
        Doing::Activating => "activating".to_owned(),
    }
}

/// How long that may take, to be said after it.
pub(crate) fn to_go(queue: &Queue) -> String {
    match queue.estimated_wait_s {
        Some(seconds) => format!(", about {seconds} s to go"),
        None => String::new(),
    }
}
