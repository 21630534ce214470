//! What the host showed, made fit for a plan that is made later than the look at the host.

use std::collections::{BTreeMap, BTreeSet};

use crate::hypervisor::Observed;
use crate::ids::VmId;
use crate::lease::VmRow;

/// What was known when the look at the host began.
#[derive(Debug, Clone, Default)]
pub(super) struct Before {
    generations: BTreeMap<VmId, i64>,
    busy: BTreeSet<VmId>,
}

impl Before {
    pub(super) fn new<'a>(
        rows: impl IntoIterator<Item = &'a VmRow>,
        busy: &BTreeSet<VmId>,
    ) -> Self {
        Self {
            generations: rows.into_iter().map(|vm| (vm.id, vm.generation)).collect(),
            busy: busy.clone(),
        }
    }

    /// The part of `seen` that says something about `rows`, which were read after the look ended.
    ///
    /// A VM that changed in between, or that somebody worked on, may be seen in any state and means
    /// nothing: it is shown running if it has a row, and not shown if it has none. How much of the disk
    /// is free means nothing either when somebody gave space back meanwhile.
    pub(super) fn settle<'a>(
        &self,
        seen: Observed,
        rows: impl IntoIterator<Item = &'a VmRow>,
    ) -> Observed {
        let rows: BTreeMap<VmId, i64> = rows.into_iter().map(|vm| (vm.id, vm.generation)).collect();
        let settled =
            |vm: &VmId| !self.busy.contains(vm) && self.generations.get(vm) == rows.get(vm);
        let mut result = Observed {
            running: seen.running.into_iter().filter(settled).collect(),
            stalled: seen.stalled.into_iter().filter(settled).collect(),
            remnants: seen.remnants.into_iter().filter(settled).collect(),
            disk_bytes: seen.disk_bytes,
            free_disk_bytes: seen
                .free_disk_bytes
                .filter(|_| self.generations.keys().all(|vm| rows.contains_key(vm))),
        };
        result.running.extend(rows.keys().filter(|vm| !settled(vm)));
        result
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::ids::Slot;
    use crate::lease::{PoolKey, VmPhase};

    fn vm(id: u64, generation: i64) -> VmRow {
        VmRow {
            id: VmId::from_bits(id),
            generation,
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

    fn ids(bits: &[u64]) -> BTreeSet<VmId> {
        bits.iter().copied().map(VmId::from_bits).collect()
    }

    #[test]
    fn an_unchanged_vm_that_is_not_seen_is_shown_missing() {
        let before = Before::new(&[vm(1, 5)], &BTreeSet::new());
        assert_eq!(
            before.settle(Observed::default(), &[vm(1, 5)]),
            Observed::default()
        );
    }

    #[test]
    fn a_vm_that_changed_or_was_worked_on_is_not_judged() {
        let before = Before::new(&[vm(1, 5), vm(2, 1)], &ids(&[2]));
        // 1 went on, 2 was busy, 3 was made during the look.
        let settled = before.settle(Observed::default(), &[vm(1, 6), vm(2, 1), vm(3, 0)]);
        assert_eq!(settled.running, ids(&[1, 2, 3]));
    }

    #[test]
    fn what_nobody_knows_is_shown_and_what_just_went_is_not() {
        let seen = Observed {
            running: ids(&[7]),
            remnants: ids(&[1, 8, 9]),
            ..Observed::default()
        };
        // 1 had a row before and has none now; 9 was a template in the making.
        let settled = Before::new(&[vm(1, 5)], &ids(&[9])).settle(seen, &[]);
        assert_eq!(
            settled,
            Observed {
                running: ids(&[7]),
                remnants: ids(&[8]),
                ..Observed::default()
            }
        );
    }

    #[test]
    fn free_space_that_grew_during_the_look_is_not_known() {
        let seen = || Observed {
            running: ids(&[1, 2]),
            stalled: ids(&[1, 2]),
            free_disk_bytes: Some(5),
            ..Observed::default()
        };
        let before = Before::new(&[vm(1, 5), vm(2, 1)], &ids(&[2]));
        let settled = before.settle(seen(), &[vm(1, 5), vm(2, 1)]);
        assert_eq!(settled.free_disk_bytes, Some(5));
        // Somebody works on the other one; what it waited for may be over.
        assert_eq!(settled.stalled, ids(&[1]));
        let settled = before.settle(seen(), &[vm(1, 5)]);
        assert_eq!(settled.free_disk_bytes, None);
    }
}
