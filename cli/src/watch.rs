//! Looks after a lease while a command uses it: warns before it expires, and tells why it is over.

use std::future::pending;
use std::time::Duration;

use remote_docker_api::{ErrorCode, Lease, LeaseState};
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::Client;
use crate::output::{end_reason, moment};
use crate::ui::Ui;

/// How long before the end the warning comes; half the time for a lease shorter than twice this.
const WARNING_AHEAD: Duration = Duration::from_secs(60);
/// How long the server may hold one question.
const POLL_WAIT: Duration = Duration::from_secs(30);
/// Questions are at least this far apart, however fast the server answers.
const POLL_PACE: Duration = Duration::from_secs(1);
/// Pause after a question that failed; the server may be restarting.
const POLL_PAUSE: Duration = Duration::from_secs(5);

/// Resolves when the lease is over and that has been said.
pub(crate) async fn watch(client: &Client, lease: &Lease, received_at: Instant, ui: Ui) {
    tokio::select! {
        () = warn_before_end(lease, received_at, ui) => {}
        why = wait_for_end(client, lease) => ui.warn(&format!(
            "the lease {} is over: {why}; the command goes on without its machine",
            lease.id
        )),
    }
}

/// How long the lease lasts from when it was received: by the server's two clock readings, so that
/// a difference between the clocks of both sides does not matter.
fn time_left(lease: &Lease) -> Duration {
    match (lease.ready_at, lease.expires_at) {
        (Some(ready), Some(expires)) => (expires - ready).try_into().unwrap_or(Duration::ZERO),
        _ => Duration::from_secs(lease.ttl_s),
    }
}

/// When to warn, counted from when the lease was received.
fn warning_after(left: Duration) -> Duration {
    left - WARNING_AHEAD.min(left / 2)
}

async fn warn_before_end(lease: &Lease, received_at: Instant, ui: Ui) {
    let left = time_left(lease);
    let after = warning_after(left);
    if let Some(at) = received_at.checked_add(after) {
        sleep_until(at).await;
        let end = lease
            .expires_at
            .map_or_else(String::new, |at| format!(" at {}", moment(at)));
        ui.warn(&format!(
            "the lease {} expires in {} s{end}; its machine and everything on it go then",
            lease.id,
            (left - after).as_secs()
        ));
    }
    pending().await
}

async fn wait_for_end(client: &Client, lease: &Lease) -> &'static str {
    loop {
        let asked_at = Instant::now();
        match client.show(lease.id, POLL_WAIT).await {
            Ok(now) if matches!(now.state, LeaseState::Ending | LeaseState::Ended) => {
                return end_reason(now.end_reason);
            }
            Ok(_) => sleep_until(asked_at + POLL_PACE).await,
            Err(error) if error.code() == Some(ErrorCode::LeaseNotFound) => {
                return "the server does not know it any more";
            }
            // Not being able to ask says nothing about the machine.
            Err(_) => sleep(POLL_PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_comes_a_minute_ahead_or_halfway() {
        let seconds = |left| warning_after(Duration::from_secs(left)).as_secs();
        assert_eq!(seconds(3600), 3540);
        assert_eq!(seconds(120), 60);
        assert_eq!(seconds(60), 30);
        assert_eq!(seconds(0), 0);
    }
}
