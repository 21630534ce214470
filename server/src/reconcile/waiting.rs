//! Tells those who wait for a machine where they stand.

use std::collections::BTreeMap;
use std::sync::Arc;

use remote_docker_api::{Doing, EventKind, LeaseId, Queue};
use time::{Duration, OffsetDateTime};
use tokio::sync::watch;

use super::Reconciler;
use crate::lease::{Pace, Policy, PoolKey, Snapshot, outlook};

/// How much the latest of something counts in what it takes on average: one part in so many.
const MEMORY: i32 = 4;

/// What those who wait are told, by lease.
pub type Outlook = Arc<BTreeMap<LeaseId, Queue>>;

/// What this process knows about waiting.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pace: Pace,
    building_since: BTreeMap<PoolKey, OffsetDateTime>,
    /// The last progress that was written down for each lease that waits.
    told: BTreeMap<LeaseId, EventKind>,
    outlook: watch::Sender<Outlook>,
}

impl Waiting {
    pub(super) fn outlook(&self) -> watch::Receiver<Outlook> {
        self.outlook.subscribe()
    }

    /// Notes how long it took to make a machine ready.
    pub(super) fn started(&mut self, key: &PoolKey, took: Duration) {
        average(&mut self.pace.start, key, took);
    }

    /// Notes that the template of this key is being built.
    pub(super) fn builds(&mut self, key: &PoolKey, now: OffsetDateTime) {
        self.building_since.insert(key.clone(), now);
    }

    /// Notes that it is built.
    pub(super) fn built(&mut self, key: &PoolKey, now: OffsetDateTime) {
        if let Some(since) = self.building_since.remove(key) {
            average(&mut self.pace.template, key, now - since);
        }
    }

    /// What has to be written down of this outlook, in order.
    fn progress(&mut self, outlook: &BTreeMap<LeaseId, Queue>) -> Vec<(LeaseId, EventKind)> {
        self.told.retain(|lease, _| outlook.contains_key(lease));
        let mut progress = Vec::new();
        for (lease, queue) in outlook {
            let told = self.told.get(lease).copied();
            // Between two looks a machine may have passed the first of the two.
            let kinds: &[EventKind] = match queue.doing {
                Doing::Cloning => &[EventKind::Cloning],
                Doing::Activating if told.is_none() => &[EventKind::Cloning, EventKind::Activating],
                Doing::Activating => &[EventKind::Activating],
                _ => &[],
            };
            if let Some(last) = kinds.last()
                && told != Some(*last)
            {
                progress.extend(kinds.iter().map(|kind| (*lease, *kind)));
                self.told.insert(*lease, *last);
            }
        }
        progress
    }
}

fn average(known: &mut BTreeMap<PoolKey, Duration>, key: &PoolKey, took: Duration) {
    // A clock that was set back meanwhile says nothing about how long it took.
    let took = took.max(Duration::ZERO);
    known
        .entry(key.clone())
        .and_modify(|average| *average = (*average * (MEMORY - 1) + took) / MEMORY)
        .or_insert(took);
}

impl Reconciler {
    /// Follows what those who wait are told.
    #[must_use]
    pub fn outlook(&self) -> watch::Receiver<Outlook> {
        self.waiting.outlook()
    }

    /// Tells those who wait where they stand. Answers what is to be written down of it.
    pub(super) fn tell_who_waits(
        &mut self,
        snapshot: &Snapshot,
        policy: &Policy,
        now: OffsetDateTime,
    ) -> Vec<(LeaseId, EventKind)> {
        let outlook = outlook(now, snapshot, policy, &self.waiting.pace);
        let progress = self.waiting.progress(&outlook);
        self.waiting.outlook.send_if_modified(|known| {
            let changed = **known != outlook;
            if changed {
                *known = Arc::new(outlook);
            }
            changed
        });
        progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doing(doing: Doing) -> BTreeMap<LeaseId, Queue> {
        let queue = Queue {
            position: 1,
            doing,
            estimated_wait_s: None,
        };
        BTreeMap::from([(LeaseId::from_bits(1), queue)])
    }

    #[test]
    fn each_step_is_told_once_and_none_is_left_out() {
        use EventKind::{Activating, Cloning};
        let mut waiting = Waiting::default();
        let mut told = |what| {
            let progress = waiting.progress(&what);
            progress
                .into_iter()
                .map(|(_, kind)| kind)
                .collect::<Vec<_>>()
        };
        assert_eq!(told(doing(Doing::Queued)), []);
        assert_eq!(told(doing(Doing::Cloning)), [Cloning]);
        assert_eq!(told(doing(Doing::Cloning)), []);
        assert_eq!(told(doing(Doing::Activating)), [Activating]);
        assert_eq!(told(doing(Doing::Queued)), []);
        // Its machine failed; the next one is begun.
        assert_eq!(told(doing(Doing::Cloning)), [Cloning]);
        assert_eq!(told(BTreeMap::new()), []);
        assert_eq!(told(doing(Doing::Activating)), [Cloning, Activating]);
    }

    #[test]
    fn what_things_took_lately_counts_more() {
        let key = PoolKey {
            engine: "26".into(),
            size: "small".into(),
        };
        let mut waiting = Waiting::default();
        waiting.started(&key, Duration::seconds(4));
        assert_eq!(waiting.pace.start[&key], Duration::seconds(4));
        waiting.started(&key, Duration::seconds(8));
        assert_eq!(waiting.pace.start[&key], Duration::seconds(5));
        waiting.builds(&key, OffsetDateTime::UNIX_EPOCH);
        waiting.built(&key, OffsetDateTime::UNIX_EPOCH + Duration::seconds(20));
        assert_eq!(waiting.pace.template[&key], Duration::seconds(20));
    }
}
