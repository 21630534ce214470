//! What the reconciler tells the rest of the server about itself.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::time::Duration;

use tokio::time::Instant;

use super::Reconciler;
use crate::ids::VmId;
use crate::lease::{PoolKey, Snapshot};
use crate::store::StoreError;

/// How often the log tells again that the database fails as it did before.
const SAME_FAILURE_LOGGED_EVERY: Duration = Duration::from_secs(60);

/// How the reconciler and all that it works with are doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The host was looked at at least once.
    pub looked: bool,
    /// Templates that are not there yet but are wanted from the start, as `engine/size`.
    pub preparing: BTreeSet<String>,
    /// What boots cold because its template cannot be had, as `engine/size`, and why.
    pub cold: BTreeMap<String, String>,
    /// What is wrong with the host's disk, in words, so that no machines are started.
    pub disk: Option<String>,
    /// What does not work at present, in words. Each entry is taken away when that same thing works
    /// again, and by nothing else.
    pub troubles: BTreeMap<Trouble, String>,
    /// Why no new leases are taken although nothing is wrong.
    pub closing: Option<String>,
}

/// What may not work. Each has its own place in [`Status::troubles`], so that the success of one says
/// nothing about another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// The database cannot be read or written.
    Database,
    /// The host cannot be looked at.
    Host,
    /// No port is left for another lease.
    Ports,
    /// Leases whose port another process took meanwhile.
    Routes,
    /// The last machine of this kind, `engine/size`, did not become ready.
    Starts(String),
    /// A machine cannot be destroyed.
    TearDown(VmId),
}

impl Status {
    /// Whether database and host answer.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        let fatal = [Trouble::Database, Trouble::Host];
        self.looked && !fatal.iter().any(|it| self.troubles.contains_key(it))
    }
}

impl Reconciler {
    /// Notes how one thing is doing: `why` it does not work, or that it does.
    pub(super) fn note(&self, trouble: Trouble, why: Option<String>) {
        self.set_status(|status| match why {
            Some(why) => {
                status.troubles.insert(trouble, why);
            }
            None => {
                status.troubles.remove(&trouble);
            }
        });
    }

    /// Notes how the templates are doing.
    pub(super) fn tell_templates(&self) {
        let prebuilt = &self.context.settings.policy.prebuild;
        let states = self.upkeep.states();
        let preparing = prebuilt
            .iter()
            .filter(|key| states.get(*key).is_some_and(|state| !state.is_settled()))
            .map(named)
            .collect();
        let cold = self.upkeep.cold(self.context.clock.ahead());
        self.set_status(|status| {
            status.preparing = preparing;
            status.cold = cold;
            status.disk = self.disk.trouble();
        });
    }

    /// Tells what a round saw of the host.
    pub(super) fn take_stock(&mut self, snapshot: &Snapshot) {
        let Some(observed) = &snapshot.observed else {
            return;
        };
        self.set_status(|status| status.looked = true);
        // What could not be destroyed may have gone by itself, if it has no row.
        let is_there = |vm: &VmId| {
            self.mirror.vm(*vm).is_some()
                || snapshot.busy_vms.contains(vm) && self.memory.busy_vms.contains(vm)
                || observed.running.contains(vm)
                || observed.remnants.contains(vm)
        };
        let gone: Vec<VmId> = self
            .memory
            .stuck
            .keys()
            .filter(|vm| !is_there(vm))
            .copied()
            .collect();
        for vm in gone {
            self.memory.stuck.remove(&vm);
            self.note(Trouble::TearDown(vm), None);
        }
    }

    pub(super) fn database_works(&mut self) {
        if self.database_failed.take().is_some() {
            tracing::info!("the database works again");
            self.note(Trouble::Database, None);
        }
    }

    /// Tells that the database failed; the same words not in every try.
    pub(super) fn database_fails(&mut self, error: &StoreError) {
        let words = in_words(error);
        let said = self
            .database_failed
            .as_ref()
            .is_some_and(|(said, at)| *said == words && at.elapsed() < SAME_FAILURE_LOGGED_EVERY);
        if !said {
            tracing::error!(
                error = error as &dyn std::error::Error,
                "the database failed; it is tried again every second"
            );
            self.database_failed = Some((words.clone(), Instant::now()));
        }
        self.note(Trouble::Database, Some(words));
    }

    pub(super) fn set_status(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            *status != before
        });
    }
}

/// The kind of a machine, for people.
pub(super) fn named(key: &PoolKey) -> String {
    format!("{}/{}", key.engine, key.size)
}

/// An error with all its causes, in one sentence.
pub(super) fn in_words(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
