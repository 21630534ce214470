//! Looks after a lease while a command uses it: sends heartbeats, warns before it expires and when its
//! machine runs out of something, and tells why it is over.

use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use remote_docker_api::{ErrorCode, Lease, LeaseId, LeaseState};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::{ApiError, Client};
use crate::output::{end_reason, moment};
use crate::ui::{Ui, in_one_line};
use crate::warnings::Warnings;

/// How long before the end the warning comes; half the time for a lease shorter than twice this.
const WARNING_AHEAD: Duration = Duration::from_secs(60);
/// How long the server may hold one question.
const POLL_WAIT: Duration = Duration::from_secs(30);
/// Questions are at least this far apart, however fast the server answers.
const POLL_PACE: Duration = Duration::from_secs(1);
/// Pause after a question that failed; the server may be restarting.
const POLL_PAUSE: Duration = Duration::from_secs(5);
/// Heartbeats in the time that the server does without: enough that one is in time when nothing arrives
/// for half of it.
const HEARTBEATS: u32 = 4;
/// They are at least so far apart, however short the time is that the server says.
const HEARTBEAT_PACE: Duration = Duration::from_millis(250);
/// How long one may take. A connection that the network swallowed is not waited for.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(4);
/// Pause after a heartbeat that failed.
const HEARTBEAT_PAUSE: Duration = Duration::from_secs(1);

/// Resolves when the lease is over and that has been said. Sends heartbeats until then, if the server
/// expects them.
pub(crate) async fn watch(
    client: &Client,
    lease: &Lease,
    received_at: Instant,
    warnings: &Warnings,
) {
    let ui = warnings.ui;
    tokio::select! {
        () = keep_alive(client, lease, ui) => {}
        why = follow(client, lease, received_at, warnings) => ui.warn(&format!(
            "the lease {} is over: {why}; the command goes on without its machine",
            lease.id
        )),
    }
}

/// Sends heartbeats, and never resolves: that the lease is over is for [`follow`] to find out, which
/// learns why.
async fn keep_alive(client: &Client, lease: &Lease, ui: Ui) {
    let Some(keepalive_s) = lease.keepalive_s else {
        return pending().await;
    };
    let pace = (Duration::from_secs(keepalive_s) / HEARTBEATS).max(HEARTBEAT_PACE);
    loop {
        sleep(pace).await;
        let since = Instant::now();
        let mut told = false;
        loop {
            let error = match client.heartbeat(lease.id, pace.min(HEARTBEAT_LIMIT)).await {
                Ok(()) => break,
                Err(error) => error,
            };
            if is_over(&error) {
                return pending().await;
            }
            if !error.may_pass() {
                ui.warn(&format!(
                    "no more heartbeats are sent, so that the machine is soon given up: {}",
                    in_one_line(&error)
                ));
                return pending().await;
            }
            // The server may be restarting, and does not count the time that it was away.
            if !told && since.elapsed() >= pace {
                told = true;
                ui.warn(&format!(
                    "no heartbeat has got through for {} s; tried on, as the machine is given up after \
                     {keepalive_s} s: {}",
                    (since.elapsed() + pace).as_secs(),
                    in_one_line(&error)
                ));
            }
            sleep(HEARTBEAT_PAUSE.min(pace / 2)).await;
        }
        if told {
            ui.note("heartbeats get through again");
        }
    }
}

/// Whether there is nothing to keep alive.
fn is_over(error: &ApiError) -> bool {
    matches!(
        error.code(),
        Some(ErrorCode::LeaseEnded | ErrorCode::LeaseNotFound | ErrorCode::NoKeepalive)
    )
}

/// Follows the lease to its end and gives the reason; warns before, each time that the end is near and
/// is not the one that was warned of before.
async fn follow(
    client: &Client,
    lease: &Lease,
    received_at: Instant,
    warnings: &Warnings,
) -> &'static str {
    let mut ends = Ends::of(lease);
    let mut warned = None;
    let mut seen = String::new();
    loop {
        let mut look = pin!(look(client, lease, &mut seen, warnings));
        let next = loop {
            tokio::select! {
                next = &mut look => break next,
                () = near_end(&ends, received_at), if warned != Some(ends.at) => {
                    warn(lease.id, &ends, warnings.ui);
                    warned = Some(ends.at);
                }
            }
        };
        match next {
            // Somebody may have extended it.
            Ok(lease) => ends = Ends::of(&lease),
            Err(why) => return why,
        }
    }
}

/// When a lease ends unless something happens.
struct Ends {
    at: Option<OffsetDateTime>,
    /// Counted from when it was ready.
    left: Duration,
}

impl Ends {
    fn of(lease: &Lease) -> Self {
        Self {
            at: lease.expires_at,
            left: time_left(lease),
        }
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

async fn near_end(ends: &Ends, received_at: Instant) {
    match received_at.checked_add(warning_after(ends.left)) {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

fn warn(lease: LeaseId, ends: &Ends, ui: Ui) {
    let end = ends
        .at
        .map_or_else(String::new, |at| format!(" at {}", moment(at)));
    ui.warn(&format!(
        "the lease {lease} expires in {} s{end}; its machine and everything on it go then",
        (ends.left - warning_after(ends.left)).as_secs()
    ));
}

/// The lease when it is other than what `seen` names, which is then what it is; or why it is over. What its
/// machine ran out of is told at once.
async fn look(
    client: &Client,
    lease: &Lease,
    seen: &mut String,
    warnings: &Warnings,
) -> Result<Lease, &'static str> {
    loop {
        let asked_at = Instant::now();
        match client.show_other(lease.id, POLL_WAIT, seen).await {
            Ok(Some((now, tag))) => {
                warnings.tell(&now);
                if matches!(now.state, LeaseState::Ending | LeaseState::Ended) {
                    return Err(end_reason(now.end_reason));
                }
                *seen = tag;
                sleep_until(asked_at + POLL_PACE).await;
                return Ok(now);
            }
            Ok(None) => sleep_until(asked_at + POLL_PACE).await,
            Err(error) if error.code() == Some(ErrorCode::LeaseNotFound) => {
                return Err("the server does not know it any more");
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
