//! What must hold in the world at every moment. The numbers are those of ARCHITECTURE.md.

use std::net::Ipv4Addr;

use super::world::{Flight, World};
use super::*;

const NETWORK: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 0);

impl World {
    /// Panics when an invariant is broken.
    pub(super) fn check(&self) {
        self.a_vm_serves_one_lease();
        self.leases_and_vms_name_each_other();
        self.nothing_is_taken_twice();
        self.the_budget_holds();
        self.only_active_leases_have_routes();
        self.gone_means_clean();
        self.quotas_hold();
    }

    /// 1. That it never returns to the pool is the table of transitions, which the world obeys.
    fn a_vm_serves_one_lease(&self) {
        for (vm, leases) in &self.served {
            assert_eq!(leases.len(), 1, "1: {vm} served {leases:?}");
        }
    }

    /// 2.
    fn leases_and_vms_name_each_other(&self) {
        let by_lease: BTreeSet<_> = self
            .grants()
            .map(|(lease, grant)| (lease, grant.vm))
            .collect();
        let by_vm: BTreeSet<_> = self
            .vms
            .values()
            .filter_map(|vm| match vm.phase {
                VmPhase::Assigned { lease } => Some((lease, vm.id)),
                _ => None,
            })
            .collect();
        assert_eq!(by_lease, by_vm, "2: active leases and assigned VMs");
    }

    /// 4.
    fn nothing_is_taken_twice(&self) {
        let slots: BTreeSet<_> = self.live_vms().map(|vm| vm.slot).collect();
        assert_eq!(slots.len(), self.live_vms().count(), "4: slots");
        let most = slots.last().map_or(0, |slot| slot.0);
        assert!(
            most <= self.policy.budget.slots,
            "4: slot {most} has no address"
        );
        let ports: BTreeSet<_> = self.grants().map(|(_, grant)| grant.port).collect();
        assert_eq!(ports.len(), self.grants().count(), "4: ports");
    }

    /// 5.
    fn the_budget_holds(&self) {
        let rows: u64 = self.live_vms().map(|vm| u64::from(vm.memory_mib)).sum();
        let builds: u64 = self
            .flights
            .iter()
            .map(|flight| match flight {
                Flight::Build(key, _) => u64::from(self.policy.sizes[key]),
                _ => 0,
            })
            .sum();
        let limit = self.policy.budget.memory_mib;
        assert!(rows + builds <= limit, "5: {rows} + {builds} of {limit}");
    }

    /// 17. Those that are just being handed a machine count.
    fn quotas_hold(&self) {
        for (project, quota) in &self.policy.quotas {
            let handed = self.flights.iter().filter_map(|flight| match flight {
                Flight::Assign(lease, vm) => Some((*lease, *vm)),
                _ => None,
            });
            let active = self.grants().map(|(lease, grant)| (lease, grant.vm));
            let held: BTreeSet<_> = active.chain(handed).collect();
            let held: Vec<_> = (held.iter())
                .filter(|(lease, _)| self.leases[lease].project == *project)
                .map(|(_, vm)| u64::from(self.vms[vm].memory_mib))
                .collect();
            let (count, mib): (usize, u64) = (held.len(), held.iter().sum());
            let most = quota.max_leases.map_or(usize::MAX, |most| most as usize);
            assert!(count <= most, "17: {project} has {count} of {most}");
            let most = quota.max_memory_mib.unwrap_or(u64::MAX);
            assert!(mib <= most, "17: {project} has {mib} of {most} MiB");
        }
    }

    /// 6.
    fn only_active_leases_have_routes(&self) {
        let of = |lease: &LeaseRow| match &lease.phase {
            LeasePhase::Active(grant) => route(lease, self.vms.get(&grant.vm), NETWORK),
            _ => route(lease, None, NETWORK),
        };
        let routes: Vec<_> = self.leases.values().filter_map(of).collect();
        for route in &routes {
            let phase = &self.leases[&route.lease].phase;
            let LeasePhase::Active(grant) = phase else {
                panic!("6: a route for {phase:?}");
            };
            let guest = self.vms[&grant.vm].slot.address(NETWORK);
            assert_eq!((*route.guest.ip(), route.port), (guest, grant.port), "6");
        }
        assert_eq!(routes.len(), self.grants().count(), "6: a route for each");
    }

    /// 7. Nothing of a VM may be, or may still appear, on the host once it is gone.
    fn gone_means_clean(&self) {
        for vm in self.vms.values() {
            if matches!(vm.phase, VmPhase::Gone { .. }) {
                assert!(
                    !self.host.contains_key(&vm.id),
                    "7: {} is on the host",
                    vm.id
                );
            }
        }
        for (vm, leases) in &self.served {
            let ended = |lease| matches!(self.leases[lease].phase, LeasePhase::Ended { .. });
            let gone = matches!(self.vms[vm].phase, VmPhase::Gone { .. });
            assert!(
                gone || !leases.iter().any(ended),
                "7: {vm} outlives its lease"
            );
        }
    }

    /// What must hold of a plan that was just begun, besides the state that it leads to.
    pub(super) fn check_plan(&self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::CreateVm(key) => self.not_more_than_wanted(key),
                Action::Assign { lease, .. } => self.oldest_first(*lease, actions),
                _ => {}
            }
        }
        // Nobody that the planner was free to end has outlived its time.
        for lease in self.leases.values() {
            let late = match &lease.phase {
                LeasePhase::Waiting => self.now >= lease.wait_until,
                LeasePhase::Active(grant) => !self.lasts(lease, grant),
                _ => false,
            };
            let busy = self.snapshot(false).busy_leases.contains(&lease.id);
            assert!(!late || busy, "{} is over its time", lease.id);
        }
    }

    /// VMs without a lease never outnumber those that wait, plus the stock that is wanted.
    fn not_more_than_wanted(&self, key: &PoolKey) {
        let busy = self.snapshot(false).busy_leases;
        let waiting = self.leases.values().filter(|lease| {
            let waits = lease.phase == LeasePhase::Waiting && lease.key == *key;
            waits && !busy.contains(&lease.id)
        });
        let stock = self.live_vms().filter(|vm| {
            let handed = |flight: &Flight| matches!(flight, Flight::Assign(_, id) if *id == vm.id);
            let free = matches!(
                vm.phase,
                VmPhase::Planned | VmPhase::Starting | VmPhase::Activating | VmPhase::Ready
            );
            free && vm.key == *key && !self.flights.iter().any(handed)
        });
        let target = self.policy.targets.get(key).copied().unwrap_or(0) as usize;
        let (waiting, stock) = (waiting.count(), stock.count());
        assert!(
            stock <= waiting + target,
            "{stock} VMs for {waiting} + {target}"
        );
    }

    fn oldest_first(&self, served: LeaseId, actions: &[Action]) {
        let served = &self.leases[&served];
        for older in self.leases.values() {
            let passed_over = older.phase == LeasePhase::Waiting
                && older.key == served.key
                && older.project == served.project
                && older.created_at < served.created_at
                && !self.snapshot(false).busy_leases.contains(&older.id);
            assert!(
                !passed_over,
                "{} goes before {}: {actions:?}",
                served.id, older.id
            );
        }
    }
}
