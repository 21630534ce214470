//! What the holder of a lease may expect, as plainly as possible.

use std::sync::{Arc, Mutex};

use remote_docker_api::EndReason;
use time::{Duration, OffsetDateTime};

use crate::hypervisor::sim::SimGuest;
use crate::ids::VmId;
use crate::lease::{Grant, LeaseEnd, LeasePhase, LeaseRow};
use crate::store::NewLease;

/// A lease as its holder knows it.
pub(super) struct Holder {
    pub(super) asked: NewLease,
    /// What the holder wished first, if anything.
    pub(super) wished: Option<EndReason>,
    generation: i64,
    pub(super) held: Option<Held>,
    /// Why it ends or ended.
    pub(super) end: Option<LeaseEnd>,
    /// Its last row.
    pub(super) ended: Option<LeaseRow>,
}

/// What an active lease has been promised.
pub(super) struct Held {
    pub(super) vm: VmId,
    pub(super) port: u16,
    pub(super) ready_at: OffsetDateTime,
    pub(super) expires_at: OffsetDateTime,
    pub(super) heartbeat_at: OffsetDateTime,
    /// The guest in its machine, if it was seen.
    pub(super) guest: Option<Arc<Mutex<SimGuest>>>,
}

/// A row, as far as it matters here.
pub(super) fn brief(row: &LeaseRow) -> String {
    let phase = match &row.phase {
        LeasePhase::Active(grant) => format!(
            "active on {} since {} until {}, heard at {}",
            grant.vm, grant.ready_at, grant.expires_at, grant.heartbeat_at
        ),
        other => format!("{other:?}"),
    };
    format!(
        "{} ({} {}, keepalive {:?}, idle {:?}, wish {:?}): {phase}",
        row.id, row.project, row.key.size, row.keepalive_s, row.idle_s, row.end_wish
    )
}

/// What has become of a lease since it was looked at last.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    None,
    /// It has its machine.
    Active(VmId),
    /// It begins to end, or has ended.
    Ends,
}

impl Holder {
    pub(super) fn new(asked: NewLease) -> Self {
        Self {
            asked,
            wished: None,
            generation: 0,
            held: None,
            end: None,
            ended: None,
        }
    }

    /// Takes in its row; panics when it goes back on anything.
    pub(super) fn see(&mut self, row: &LeaseRow) -> News {
        let id = row.id;
        assert_eq!(row.project, self.asked.project, "{id}");
        assert!(row.generation >= self.generation, "{id} went back: {row:?}");
        self.generation = row.generation;
        assert_eq!(row.end_wish, self.wished.or(row.end_wish), "{id}: {row:?}");
        if let Some(ended) = &self.ended {
            assert_eq!(row, ended, "{id} had ended");
            return News::None;
        }
        match &row.phase {
            LeasePhase::Waiting => {
                assert!(self.held.is_none() && self.end.is_none(), "{id}: {row:?}");
                News::None
            }
            LeasePhase::Active(grant) => {
                assert!(self.end.is_none(), "{id} came back: {row:?}");
                if let Some(held) = &self.held {
                    held.is_kept_by(grant, row);
                    return News::None;
                }
                let ttl = Duration::seconds(self.asked.ttl_s.into());
                let held = Held::new(grant);
                assert!(grant.ready_at >= self.asked.created_at, "{row:?}");
                assert_eq!(grant.expires_at, grant.ready_at + ttl, "{row:?}");
                assert_eq!(grant.heartbeat_at, grant.ready_at, "{row:?}");
                let news = News::Active(held.vm);
                self.held = Some(held);
                news
            }
            LeasePhase::Ending { end, vm } => {
                if let Some(held) = &self.held {
                    assert_eq!(*vm, Some(held.vm), "{row:?}");
                }
                self.ends(row, end)
            }
            LeasePhase::Ended { end, .. } => {
                let news = self.ends(row, end);
                self.ended = Some(row.clone());
                news
            }
        }
    }

    fn ends(&mut self, row: &LeaseRow, end: &LeaseEnd) -> News {
        if let Some(held) = &self.held {
            assert_eq!(end.ready_at, Some(held.ready_at), "{row:?}");
            assert_eq!(end.expires_at, Some(held.expires_at), "{row:?}");
        }
        match self.end.replace(end.clone()) {
            Some(before) => {
                assert_eq!(before, *end, "{} ends otherwise", row.id);
                News::None
            }
            None => News::Ends,
        }
    }

    /// The first moment at which it may end for want of heartbeats on a server that has listened
    /// since then.
    pub(super) fn silent_at(&self, listening_since: OffsetDateTime) -> Option<OffsetDateTime> {
        let keepalive = Duration::seconds(self.asked.keepalive_s?.into());
        let heartbeat_at = self.held.as_ref()?.heartbeat_at;
        Some(heartbeat_at.max(listening_since) + keepalive)
    }
}

impl Held {
    fn new(grant: &Grant) -> Self {
        Self {
            vm: grant.vm,
            port: grant.port,
            ready_at: grant.ready_at,
            expires_at: grant.expires_at,
            heartbeat_at: grant.heartbeat_at,
            guest: None,
        }
    }

    fn is_kept_by(&self, grant: &Grant, row: &LeaseRow) {
        assert_eq!(
            (grant.vm, grant.port, grant.ready_at),
            (self.vm, self.port, self.ready_at),
            "{row:?}"
        );
        assert_eq!(grant.expires_at, self.expires_at, "{row:?}");
        assert_eq!(grant.heartbeat_at, self.heartbeat_at, "{row:?}");
    }

    /// The longest that the guest had been idle when it was asked; `None` when nobody saw it.
    pub(super) fn most_idle(&self) -> Option<Duration> {
        let guest = self.guest.as_ref()?.lock().unwrap();
        let most = i64::try_from(guest.most_idle_ms).unwrap_or(i64::MAX);
        Some(Duration::milliseconds(most))
    }
}
