//! New VMs and templates: for leases that nothing serves yet, then for the stock.

use std::collections::BTreeSet;

use time::OffsetDateTime;

use super::capacity::{Need, Room};
use super::plan::Action;
use super::pool::Pool;
use super::snapshot::{Policy, Snapshot, TemplateState};
use super::{LeaseRow, PoolKey};

/// Hands out what is free of the budget.
pub(super) struct Growth<'a> {
    now: OffsetDateTime,
    snapshot: &'a Snapshot,
    policy: &'a Policy,
    room: Room,
    /// Keys whose template in the making already stands for one lease: the memory that the build
    /// gives back is that lease's.
    spoken_for: BTreeSet<&'a PoolKey>,
    actions: Vec<Action>,
}

impl<'a> Growth<'a> {
    pub(super) fn new(now: OffsetDateTime, snapshot: &'a Snapshot, policy: &'a Policy) -> Self {
        Self {
            now,
            snapshot,
            policy,
            room: Room::new(snapshot, policy),
            spoken_for: BTreeSet::new(),
            actions: Vec::new(),
        }
    }

    pub(super) fn into_actions(self) -> Vec<Action> {
        self.actions
    }

    /// Begins a VM for each lease, in order.
    ///
    /// # Errors
    /// With what is lacking for the first that does not fit; none after it gets anything.
    pub(super) fn serve(&mut self, leases: &[&'a LeaseRow]) -> Result<(), Need> {
        for lease in leases {
            // A kind that is no longer offered, or larger than the host, must not hold up the rest.
            let Some(memory) = self.obtainable(&lease.key) else {
                continue;
            };
            self.one_more(&lease.key, memory)?;
        }
        Ok(())
    }

    /// Begins VMs up to the targets as long as there is room. A build counts as one of them.
    pub(super) fn fill(&mut self, pool: &Pool<'_>) {
        for (key, target) in &self.policy.targets {
            let Some(memory) = self.obtainable(key) else {
                continue;
            };
            for _ in pool.left(key)..*target as usize {
                if self.one_more(key, memory).is_err() {
                    break;
                }
            }
        }
    }

    /// Begins the templates that are wanted from the start as long as there is room.
    pub(super) fn prepare(&mut self) {
        for key in &self.policy.prebuild {
            let missing = self.snapshot.template(key) == TemplateState::Missing;
            if missing
                && !self.spoken_for.contains(key)
                && let Some(memory) = self.obtainable(key)
            {
                // Without room it waits; it is nobody's lease yet.
                let _ = self.one_more(key, memory);
            }
        }
    }

    /// The memory in MiB of a VM of `key`, if one can be had now.
    pub(super) fn obtainable(&self, key: &PoolKey) -> Option<u32> {
        let memory = *self.policy.sizes.get(key)?;
        let whole = self.policy.budget.whole();
        let possible = Need::vm(memory).after(whole).is_nothing();
        (possible && !self.snapshot.is_held_back(key, self.now)).then_some(memory)
    }

    /// Does what brings one more VM of `key` nearer: creates it, or begins its template.
    fn one_more(&mut self, key: &'a PoolKey, memory: u32) -> Result<(), Need> {
        let template = self.snapshot.template(key);
        if template == TemplateState::Building && !self.spoken_for.contains(key) {
            // Its memory is counted as the build's; its slot must not go to a younger one meanwhile.
            self.room.take(Need::slot())?;
            self.spoken_for.insert(key);
            return Ok(());
        }
        // What has to wait for the template is kept room for as well.
        self.room.take(Need::vm(memory))?;
        if template.is_settled() {
            self.actions.push(Action::CreateVm(key.clone()));
        } else if template == TemplateState::Missing && self.spoken_for.insert(key) {
            self.actions.push(Action::BuildTemplate(key.clone()));
        }
        Ok(())
    }
}
