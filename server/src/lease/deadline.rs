//! When an active lease ends by itself, and when its holder is warned of that.

use remote_docker_api::EndReason;
use time::{Duration, OffsetDateTime};

use super::snapshot::{Activity, Policy};
use super::verdict::over;
use super::{Grant, LeaseRow};

/// A deadline that moved by less is the same one: what a guest says of its last use is not exact.
const SAME: Duration = Duration::seconds(5);

/// Why a lease will end unless somebody does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its time will be over.
    Expiry,
    /// Nothing happens on it.
    Idleness,
}

/// What is known of the holder and the guest of a lease beside its row.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heard {
    /// Since when heartbeats can reach this process: silence before does not count.
    pub listening_since: Option<OffsetDateTime>,
    /// What the guest said last about itself.
    pub activity: Option<Activity>,
}

/// A lease's end as far as it can be foreseen, without heartbeats: who would have to be warned of
/// those is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Foreseen {
    pub(super) at: OffsetDateTime,
    pub(super) cause: Cause,
}

/// The end that the holder of this lease is to be warned of now, if there is one.
pub(super) fn warning(
    now: OffsetDateTime,
    lease: &LeaseRow,
    grant: &Grant,
    heard: Heard,
    policy: &Policy,
) -> Option<Foreseen> {
    let end = foreseen(lease, grant, heard);
    let told = grant
        .warned_of
        .is_some_and(|told| end.at <= told.saturating_add(SAME));
    (!told && now >= warned_at(lease, grant, end, policy)).then_some(end)
}

/// When the holder of this lease is to be warned if nothing changes; `None` when that was done.
pub(super) fn next_warning(
    lease: &LeaseRow,
    grant: &Grant,
    heard: Heard,
    policy: &Policy,
) -> Option<OffsetDateTime> {
    let end = foreseen(lease, grant, heard);
    let told = grant
        .warned_of
        .is_some_and(|told| end.at <= told.saturating_add(SAME));
    (!told).then(|| warned_at(lease, grant, end, policy))
}

/// A lease that is as short as a warning would be early is warned in its middle.
fn warned_at(lease: &LeaseRow, grant: &Grant, end: Foreseen, policy: &Policy) -> OffsetDateTime {
    let whole = match end.cause {
        Cause::Expiry => grant.expires_at - grant.ready_at,
        Cause::Idleness => Duration::seconds(lease.idle_s.unwrap_or_default().into()),
    };
    end.at.saturating_sub(policy.warn_before.min(whole / 2))
}

fn foreseen(lease: &LeaseRow, grant: &Grant, heard: Heard) -> Foreseen {
    let expiry = Foreseen {
        at: grant.expires_at,
        cause: Cause::Expiry,
    };
    let idle_s = lease.idle_s.map(|idle_s| Duration::seconds(idle_s.into()));
    let (Some(idle), Some(activity)) = (idle_s, heard.activity) else {
        return expiry;
    };
    // A guest that was idle before it had its lease is not idle for that long on it.
    match activity.busy_at.max(grant.ready_at).checked_add(idle) {
        Some(at) if at < expiry.at => Foreseen {
            at,
            cause: Cause::Idleness,
        },
        _ => expiry,
    }
}

/// Why this lease is to end now by one of its own deadlines.
pub(super) fn passed(
    now: OffsetDateTime,
    lease: &LeaseRow,
    grant: &Grant,
    heard: Heard,
) -> Option<EndReason> {
    if now >= grant.expires_at {
        return Some(EndReason::Expired);
    }
    if heartbeat_due(lease, grant, heard).is_some_and(|due| now >= due) {
        return Some(EndReason::KeepaliveMissed);
    }
    let idle = Duration::seconds(lease.idle_s?.into());
    let activity = heard.activity?;
    // What the guest said is what counts, not how long it has said nothing since.
    over(
        activity.busy_at.max(grant.ready_at),
        idle,
        activity.heard_at,
    )
    .then_some(EndReason::Idle)
}

/// Until when the next heartbeat must come, if the lease expects them. While no server listened,
/// none could come.
pub(super) fn heartbeat_due(
    lease: &LeaseRow,
    grant: &Grant,
    heard: Heard,
) -> Option<OffsetDateTime> {
    let keepalive = Duration::seconds(lease.keepalive_s?.into());
    let since = heard
        .listening_since
        .map_or(grant.heartbeat_at, |since| grant.heartbeat_at.max(since));
    since.checked_add(keepalive)
}

/// Until when this lease needs nothing unless its row changes or more is heard; `None` when it needs
/// something now.
pub(super) fn rests_until(
    now: OffsetDateTime,
    lease: &LeaseRow,
    grant: &Grant,
    heard: Heard,
    policy: &Policy,
) -> Option<OffsetDateTime> {
    if lease.end_wish.is_some() || passed(now, lease, grant, heard).is_some() {
        return None;
    }
    let deadlines = [
        Some(grant.expires_at),
        heartbeat_due(lease, grant, heard),
        next_warning(lease, grant, heard, policy),
    ];
    deadlines
        .into_iter()
        .flatten()
        .min()
        .filter(|due| *due > now)
}
