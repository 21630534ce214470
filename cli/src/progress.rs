//! Tells how far a machine is while its lease is waited for.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use remote_docker_api::{Doing, Lease, LeaseState, Queue};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::ui::Ui;

/// A machine that is ready sooner needs no words.
const FIRST_LOOK: Duration = Duration::from_millis(500);
/// The same where each word is a line that stays.
const FIRST_LINE: Duration = Duration::from_millis(1500);
/// Between two looks at first; who waits long looks less often.
const PACE: Duration = Duration::from_secs(1);
/// Between two looks at most.
const SLOWEST: Duration = Duration::from_secs(5);
/// How often the lease is looked for in the list, which is long on a busy server.
const TRIES: usize = 3;
const WAITING: &str = "waiting for a machine …";

/// Follows the lease that was asked for with this certificate request and tells where it stands. Never
/// resolves: that there is an answer is for the request itself to find out. What cannot be seen is not
/// told, as nothing depends on it.
pub(crate) async fn follow(client: &Client, csr_pem: &str, ui: Ui) -> Infallible {
    if !ui.tells() {
        return pending().await;
    }
    let asked_at = Instant::now();
    ui.status(WAITING);
    sleep(if ui.redraws() { FIRST_LOOK } else { FIRST_LINE }).await;
    let Some(mut lease) = find(client, csr_pem).await else {
        return pending().await;
    };
    let id = lease.id;
    let mut told = None;
    loop {
        if let (LeaseState::Waiting, Some(queue)) = (lease.state, &lease.queue) {
            let step = step(queue);
            if ui.redraws() {
                let seconds = asked_at.elapsed().as_secs();
                ui.status(&format!("{step}{}, {seconds} s so far", to_go(queue)));
            } else if told.as_ref() != Some(&step) {
                ui.note(&format!("{step}{}", to_go(queue)));
                told = Some(step);
            }
        }
        lease = loop {
            sleep((PACE + asked_at.elapsed() / 20).min(SLOWEST)).await;
            // The server may be restarting.
            if let Ok(lease) = client.show(id, Duration::ZERO).await {
                break lease;
            }
        };
    }
}

/// The lease in the list of all.
async fn find(client: &Client, csr_pem: &str) -> Option<Lease> {
    let digest = Sha256::digest(csr_pem.as_bytes());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let is_own = |lease: &Lease| lease.csr_sha256.as_ref() == Some(&digest);
    for _ in 0..TRIES {
        if let Ok(list) = client.list().await
            && let Some(own) = list.leases.into_iter().find(is_own)
        {
            return Some(own);
        }
        sleep(PACE).await;
    }
    None
}

/// What is being done for a lease that waits.
pub(crate) fn step(queue: &Queue) -> String {
    match queue.doing {
        Doing::Queued | Doing::Unknown => format!("queued at place {}", queue.position),
        Doing::Quota => "waiting for its project to give a machine back".to_owned(),
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
