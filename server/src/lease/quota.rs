//! What each project may hold at a time, and what it holds.

use std::collections::{BTreeMap, BTreeSet};

use super::snapshot::{Policy, Snapshot};
use super::verdict::Judge;
use super::{LeasePhase, LeaseRow};

/// What the leases of a project that have a machine may be together. What is not said is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// How many.
    pub max_leases: Option<u32>,
    /// Memory of their machines, in MiB.
    pub max_memory_mib: Option<u64>,
}

impl Quota {
    /// Whether a project with leases of so much memory each may have one more with `memory_mib`.
    #[must_use]
    pub fn has_room(&self, held_mib: impl IntoIterator<Item = u32>, memory_mib: u32) -> bool {
        let held = held_mib.into_iter().map(Held::one);
        self.allows(held.fold(Held::one(memory_mib), Held::and))
    }

    /// Whether so much is within it.
    fn allows(&self, held: Held) -> bool {
        self.max_leases
            .is_none_or(|most| held.leases <= u64::from(most))
            && self.max_memory_mib.is_none_or(|most| held.mib <= most)
    }
}

/// What leases take together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    leases: u64,
    mib: u64,
}

impl Held {
    /// What one takes.
    pub(super) fn one(memory_mib: u32) -> Self {
        Self {
            leases: 1,
            mib: u64::from(memory_mib),
        }
    }

    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            leases: self.leases.saturating_add(other.leases),
            mib: self.mib.saturating_add(other.mib),
        }
    }

    /// What remains when `other` is taken off.
    pub(super) fn after(self, other: Self) -> Self {
        Self {
            leases: self.leases.saturating_sub(other.leases),
            mib: self.mib.saturating_sub(other.mib),
        }
    }
}

/// Who gets a machine within the quotas, asked for one lease after the other in the order in which they are
/// served.
///
/// Whoever has to wait for their own project holds up the rest of that project, which would otherwise
/// take what comes free bit by bit, and nobody else.
pub(super) struct Ledger<'a> {
    policy: &'a Policy,
    held: BTreeMap<&'a str, Held>,
    full: BTreeSet<&'a str>,
}

impl<'a> Ledger<'a> {
    /// What is held now. What is about to end still is: that its end is written is not certain before it
    /// is, and the next plan knows.
    pub(super) fn new(judge: &Judge<'a>, snapshot: &'a Snapshot, policy: &'a Policy) -> Self {
        let mut ledger = Self {
            policy,
            held: BTreeMap::new(),
            full: BTreeSet::new(),
        };
        for project in policy.quotas.keys() {
            let held = snapshot.quiet.held_by(project);
            ledger.held.insert(project, held);
        }
        for lease in &snapshot.leases {
            let mib = match &lease.phase {
                LeasePhase::Active(grant) => judge.memory_of(grant.vm),
                // It is being handed a machine.
                LeasePhase::Waiting if snapshot.busy_leases.contains(&lease.id) => None,
                _ => continue,
            };
            let mib = mib.or_else(|| policy.sizes.get(&lease.key).copied());
            ledger.take(lease, mib.unwrap_or_default());
        }
        ledger
    }

    /// Whether this lease may have a machine now.
    pub(super) fn admits(&mut self, lease: &'a LeaseRow) -> bool {
        let project = lease.project.as_str();
        let Some(quota) = self.policy.quotas.get(project) else {
            return true;
        };
        let Some(memory) = self.policy.sizes.get(&lease.key) else {
            // It is offered no more, so there is nothing to hand out.
            return false;
        };
        let one = Held::one(*memory);
        if !quota.allows(one) {
            // It never will; others must not wait for it.
            return false;
        }
        let held = self.held.get(project).copied().unwrap_or_default();
        let admitted = !self.full.contains(project) && quota.allows(held.and(one));
        if !admitted {
            self.full.insert(project);
        }
        admitted
    }

    /// Counts a lease that has, or gets, a machine with so much memory.
    pub(super) fn take(&mut self, lease: &'a LeaseRow, memory_mib: u32) {
        if let Some(held) = self.held.get_mut(lease.project.as_str()) {
            *held = held.and(Held::one(memory_mib));
        }
    }
}
