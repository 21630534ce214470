//! Looking at the host, beside the loop: a look takes as long as libvirt takes, and what it shows is compared
//! with all rows before the loop gets it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Reconciler;
use super::jobs::Outcome;
use crate::ids::VmId;
use crate::lease::{Before, Roster, Shown};

/// How it stands with looking at the host.
pub(super) enum Look {
    Due,
    /// One or more: another may become due before the last has ended.
    UnderWay,
    Seen(Sighting),
    Rested,
}

/// What a look showed, and what has changed since it began.
pub(super) struct Sighting {
    pub(super) shown: Shown,
    pub(super) since: Since,
}

/// Goes with a look: what it shows says nothing about VMs that changed after it began.
#[derive(Debug, Clone, Default)]
pub(super) struct Since(Arc<Mutex<BTreeSet<VmId>>>);

/// The looks that have begun and were not thought of yet.
#[derive(Debug, Default)]
pub(super) struct Looks(Vec<Weak<Mutex<BTreeSet<VmId>>>>);

impl Looks {
    /// Another begins.
    fn begin(&mut self) -> Since {
        let since = Since::default();
        self.0.push(Arc::downgrade(&since.0));
        since
    }

    /// These VMs are not as they were before.
    pub(super) fn note(&mut self, changed: &BTreeSet<VmId>) {
        self.0.retain(|look| {
            let look = look.upgrade();
            if let Some(look) = &look {
                let mut known = look.lock().unwrap_or_else(PoisonError::into_inner);
                known.extend(changed);
            }
            look.is_some()
        });
    }
}

impl Sighting {
    /// The part of it that says something about the rows of now.
    pub(super) fn settle(self, roster: &Roster) -> Shown {
        let Self { shown, since } = self;
        let changed = since.0.lock().unwrap_or_else(PoisonError::into_inner);
        shown.settle(&changed, roster)
    }
}

impl Reconciler {
    pub(super) fn look_at_host(&mut self) {
        let before = Before::new(&self.mirror.roster, &self.memory.busy_vms);
        let since = self.looks.begin();
        self.look = Look::UnderWay;
        let hypervisor = self.context.hypervisor.clone();
        self.running.spawn(async move {
            let seen = hypervisor.list().await;
            let result = seen.map(|seen| before.compare(seen));
            Outcome::Observed { result, since }
        });
    }
}
