//! What a look at the host showed, made fit for a plan that is made later, and made small: machines that run
//! as their rows have it are left out, and there are no others on most days. So a plan after a look costs what
//! the look found amiss, however many machines there are.

use std::collections::{BTreeMap, BTreeSet};

use super::disk;
use super::{Policy, Roster, VmRow};
use crate::hypervisor::Observed;
use crate::ids::VmId;

/// What was known when a look at the host began.
#[derive(Debug, Clone, Default)]
pub struct Before {
    /// VMs that had a row, in the order of their ids.
    rows: Vec<VmId>,
    /// Those that somebody worked on, with a row or without.
    busy: BTreeSet<VmId>,
}

/// What a look showed beside machines that had a row and run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// They had a row and do not run.
    missing: BTreeSet<VmId>,
    /// They run, and wait for disk space.
    stalled: BTreeSet<VmId>,
    /// They run and had no row.
    strangers: BTreeSet<VmId>,
    remnants: BTreeSet<VmId>,
    disk_bytes: BTreeMap<VmId, u64>,
    free_disk_bytes: Option<u64>,
    /// A VM that somebody worked on when the look began may be seen in any state and means nothing.
    busy: BTreeSet<VmId>,
}

impl Before {
    /// What is known now.
    #[must_use]
    pub fn new(roster: &Roster, busy: &BTreeSet<VmId>) -> Self {
        Self {
            rows: roster.vms().map(|vm| vm.id).collect(),
            busy: busy.clone(),
        }
    }

    /// Compares all rows with all that was seen. For whoever looks: the loop need not wait for it.
    #[must_use]
    pub fn compare(self, seen: Observed) -> Shown {
        let Self { rows, busy } = self;
        let had_row = |vm: &VmId| rows.binary_search(vm).is_ok();
        let strangers = seen.running.iter().filter(|vm| !had_row(vm)).copied();
        let strangers = strangers.collect();
        let missing = rows.iter().filter(|vm| !seen.running.contains(vm)).copied();
        Shown {
            missing: missing.collect(),
            stalled: seen.stalled,
            strangers,
            remnants: seen.remnants,
            disk_bytes: seen.disk_bytes,
            free_disk_bytes: seen.free_disk_bytes,
            busy,
        }
    }
}

impl Shown {
    /// The part of it that says something about the rows of now. `changed` are the VMs that are not as they
    /// were when the look began: they mean no more than those that somebody worked on. How much of the disk
    /// is free means nothing either when one of them is gone, which gave space back meanwhile.
    #[must_use]
    pub fn settle(mut self, changed: &BTreeSet<VmId>, roster: &Roster) -> Self {
        let busy = std::mem::take(&mut self.busy);
        let settled = |vm: &VmId| !busy.contains(vm) && !changed.contains(vm);
        self.missing.retain(settled);
        self.stalled.retain(settled);
        self.strangers.retain(settled);
        self.remnants.retain(settled);
        if changed.iter().any(|vm| roster.vm(*vm).is_none()) {
            self.free_disk_bytes = None;
        }
        self
    }

    /// VMs with a row whose leases need to be looked at, although their deadlines have not come.
    pub fn amiss(&self) -> impl Iterator<Item = VmId> {
        self.missing.union(&self.stalled).copied()
    }

    /// Whether it says something about every machine: who gives its disk space back is chosen among all.
    #[must_use]
    pub fn concerns_all(&self, policy: &Policy) -> bool {
        disk::is_lacking(self.free_disk_bytes, policy)
    }

    /// What a plan for these VMs is told of it. A VM that is not judged is shown running.
    #[must_use]
    pub fn of(self, vms: &[VmRow]) -> Observed {
        let ids = vms.iter().map(|vm| vm.id);
        let mut running: BTreeSet<VmId> = ids.filter(|vm| !self.missing.contains(vm)).collect();
        running.extend(self.strangers);
        Observed {
            running,
            stalled: self.stalled,
            remnants: self.remnants,
            disk_bytes: self.disk_bytes,
            free_disk_bytes: self.free_disk_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::ids::Slot;
    use crate::lease::{PoolKey, VmPhase};

    fn vm(id: u64) -> VmRow {
        VmRow {
            id: VmId::from_bits(id),
            generation: 1,
            key: PoolKey {
                engine: "26".into(),
                size: "small".into(),
            },
            memory_mib: 1024,
            slot: Slot(1),
            phase: VmPhase::Ready,
            phase_since: OffsetDateTime::UNIX_EPOCH,
        }
    }

    fn vms(bits: &[u64]) -> Vec<VmRow> {
        bits.iter().copied().map(vm).collect()
    }

    fn ids(bits: &[u64]) -> BTreeSet<VmId> {
        bits.iter().copied().map(VmId::from_bits).collect()
    }

    /// A look that began with rows of `then`, of which somebody worked on `busy`. It ends with rows of `now`,
    /// and those of `changed` are others.
    fn look(then: &[u64], busy: &[u64], seen: Observed, now: &[u64], changed: &[u64]) -> Shown {
        let before = Before::new(&Roster::new(vms(then), Vec::new()), &ids(busy));
        let roster = Roster::new(vms(now), Vec::new());
        before.compare(seen).settle(&ids(changed), &roster)
    }

    fn running(bits: &[u64]) -> Observed {
        Observed {
            running: ids(bits),
            ..Observed::default()
        }
    }

    #[test]
    fn an_unchanged_vm_that_is_not_seen_is_shown_missing() {
        let shown = look(&[1, 2], &[], running(&[2]), &[1, 2], &[]);
        assert_eq!(shown.amiss().collect::<BTreeSet<_>>(), ids(&[1]));
        assert_eq!(shown.of(&vms(&[1, 2])), running(&[2]));
    }

    #[test]
    fn a_vm_that_changed_or_was_worked_on_is_not_judged() {
        // 1 went on, 2 was busy, 3 was made during the look.
        let shown = look(&[1, 2], &[2], Observed::default(), &[1, 2, 3], &[1, 3]);
        assert_eq!(shown.amiss().count(), 0);
        assert_eq!(shown.of(&vms(&[1, 2, 3])), running(&[1, 2, 3]));
    }

    #[test]
    fn what_nobody_knows_is_shown_and_what_just_went_is_not() {
        let seen = Observed {
            running: ids(&[7]),
            remnants: ids(&[1, 8, 9]),
            ..Observed::default()
        };
        // 1 had a row before and has none now; 9 was a template in the making.
        let shown = look(&[1], &[9], seen, &[], &[1]);
        assert_eq!(
            shown.of(&[]),
            Observed {
                running: ids(&[7]),
                remnants: ids(&[8]),
                ..Observed::default()
            }
        );
    }

    #[test]
    fn a_machine_that_runs_and_is_not_planned_for_is_no_stranger() {
        let shown = look(&[1, 2], &[], running(&[1, 2, 3]), &[1, 2, 3], &[3]);
        // 3 was made during the look, and all three have leases that need nothing.
        assert_eq!(shown.of(&[]), Observed::default());
    }

    #[test]
    fn free_space_that_grew_during_the_look_is_not_known() {
        let seen = || Observed {
            stalled: ids(&[1, 2]),
            free_disk_bytes: Some(5),
            ..running(&[1, 2])
        };
        let shown = look(&[1, 2], &[2], seen(), &[1, 2], &[]);
        // Somebody works on the other one; what it waited for may be over.
        assert_eq!(shown.amiss().collect::<BTreeSet<_>>(), ids(&[1]));
        let settled = shown.of(&vms(&[1, 2]));
        assert_eq!(settled.free_disk_bytes, Some(5));
        assert_eq!(settled.stalled, ids(&[1]));
        let shown = look(&[1, 2], &[2], seen(), &[1], &[2]);
        assert_eq!(shown.of(&vms(&[1])).free_disk_bytes, None);
    }
}
