//! VMs that no lease has yet: who gets them, and which of them are too many.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use time::OffsetDateTime;

use super::capacity::Need;
use super::snapshot::{Policy, Snapshot};
use super::verdict::over;
use super::{DestroyReason, LeasePhase, LeaseRow, PoolKey, VmPhase, VmRow};
use crate::ids::VmId;

/// How a waiting lease is helped by what there is.
pub(super) enum Served {
    /// It gets this VM now.
    By(VmId),
    /// A VM that is on its way is meant for it; it is this far.
    Soon(VmPhase),
    /// There is nothing for it.
    Not,
}

/// VMs without a lease and without a fault.
#[derive(Default)]
pub(super) struct Pool<'a> {
    stocks: BTreeMap<PoolKey, Stock<'a>>,
}

/// Those of one key.
#[derive(Default)]
struct Stock<'a> {
    /// Ready and free, the longest ready first.
    ready: VecDeque<&'a VmRow>,
    /// Those that are being started or activated, which cannot be stopped half way; the one that
    /// will be ready last comes first.
    coming: Vec<VmPhase>,
    /// Of which nothing is on the host.
    planned: VecDeque<&'a VmRow>,
}

impl Stock<'_> {
    fn len(&self) -> usize {
        self.ready.len() + self.coming.len() + self.planned.len()
    }
}

impl<'a> Pool<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, faults: &BTreeMap<VmId, DestroyReason>) -> Self {
        let mut vms: Vec<_> = snapshot.vms.iter().collect();
        vms.sort_by_key(|vm| (vm.phase_since, vm.id));
        let mut pool = Self::default();
        for vm in vms.into_iter().filter(|vm| !faults.contains_key(&vm.id)) {
            let busy = snapshot.busy_vms.contains(&vm.id);
            let stock = pool.stocks.entry(vm.key.clone()).or_default();
            match vm.phase {
                VmPhase::Planned if !busy => stock.planned.push_back(vm),
                VmPhase::Planned | VmPhase::Starting | VmPhase::Activating => {
                    stock.coming.push(vm.phase);
                }
                VmPhase::Ready if !busy => stock.ready.push_back(vm),
                // The step that made it ready has not reported back yet, which takes a moment.
                VmPhase::Ready => stock.coming.push(vm.phase),
                _ => {}
            }
        }
        for stock in pool.stocks.values_mut() {
            stock.coming.sort_by_key(|phase| match phase {
                VmPhase::Planned => 0,
                VmPhase::Starting => 1,
                VmPhase::Activating => 2,
                _ => 3,
            });
        }
        // Or it is being handed to a lease, which is busy as well.
        let handed = |lease: &&LeaseRow| {
            lease.phase == LeasePhase::Waiting && snapshot.busy_leases.contains(&lease.id)
        };
        for lease in snapshot.leases.iter().filter(handed) {
            if let Some(stock) = pool.stocks.get_mut(&lease.key) {
                stock.coming.pop();
            }
        }
        pool
    }

    /// Takes what helps the next lease of `key` most.
    pub(super) fn serve(&mut self, key: &PoolKey) -> Served {
        let Some(stock) = self.stocks.get_mut(key) else {
            return Served::Not;
        };
        if let Some(vm) = stock.ready.pop_front() {
            return Served::By(vm.id);
        }
        let coming = stock.coming.pop();
        coming
            .or_else(|| Some(stock.planned.pop_front()?.phase))
            .map_or(Served::Not, Served::Soon)
    }

    /// How many VMs of `key` are left that no lease waits for.
    pub(super) fn left(&self, key: &PoolKey) -> usize {
        self.stocks.get(key).map_or(0, Stock::len)
    }

    /// Gives up VMs that nobody waits for, wanted as stock or not, so that `lacking` comes free: a
    /// lease that waits goes before one that may come. Gives up nothing when all would not be enough.
    pub(super) fn evict(&mut self, lacking: Need) -> Vec<VmId> {
        let planned = self.stocks.values().flat_map(|stock| &stock.planned);
        let ready = self.stocks.values().flat_map(|stock| &stock.ready);
        let mut lacking = lacking;
        let mut evicted = BTreeSet::new();
        for vm in planned.chain(ready) {
            if lacking.is_nothing() {
                break;
            }
            lacking = lacking.after(Need::vm(vm.memory_mib));
            evicted.insert(vm.id);
        }
        if !lacking.is_nothing() {
            return Vec::new();
        }
        for stock in self.stocks.values_mut() {
            stock.planned.retain(|vm| !evicted.contains(&vm.id));
            stock.ready.retain(|vm| !evicted.contains(&vm.id));
        }
        evicted.into_iter().collect()
    }

    /// Gives up VMs beyond the targets. A ready one is kept for a while, because what a lease just
    /// left behind is often what the next one asks for.
    pub(super) fn shrink(&mut self, now: OffsetDateTime, policy: &Policy) -> Vec<VmId> {
        let mut given_up = Vec::new();
        for (key, stock) in &mut self.stocks {
            let target = policy.targets.get(key).map_or(0, |count| *count as usize);
            while stock.len() > target {
                let old = |vm: &&VmRow| over(vm.phase_since, policy.surplus_after, now);
                let vm = match stock.planned.pop_back() {
                    Some(vm) => vm,
                    None if stock.ready.front().is_some_and(old) => match stock.ready.pop_front() {
                        Some(vm) => vm,
                        None => break,
                    },
                    None => break,
                };
                given_up.push(vm.id);
            }
        }
        given_up
    }
}
