//! That a plan need not look at those that are quiet.

use super::world::World;
use super::*;
use crate::hypervisor::Observed;

impl World {
    /// Tells the roster what has changed since the last time, and nothing else. Answers the VMs that
    /// somebody works on.
    fn tell_the_roster(&mut self) -> BTreeSet<VmId> {
        for vm in self.vms.values() {
            let known = self.roster.vm(vm.id);
            let lives = !vm.phase.is_gone();
            if (lives || known.is_some()) && known != Some(vm) {
                self.roster.put_vm(vm.clone());
            }
        }
        for lease in self.leases.values() {
            let known = self.roster.lease(lease.id);
            let lives = !matches!(lease.phase, LeasePhase::Ended { .. });
            if (lives || known.is_some()) && known != Some(lease) {
                self.roster.put_lease(lease.clone());
            }
        }
        for vm in std::mem::take(&mut self.stirred) {
            self.roster.stir(vm);
        }
        self.snapshot(false).busy_vms
    }

    /// The plan, the next moment to look again, and what those who wait are told are the same whether
    /// all are looked at or only those that are not quiet; also when the host was looked at, whatever it
    /// shows.
    pub(super) fn a_look_at_the_restless_is_enough(&mut self) {
        let busy = self.tell_the_roster();
        self.is_enough(&busy, None);
        let seen = self.snapshot(true).observed.unwrap_or_default();
        self.is_enough(&busy, Some(seen.clone()));
        let reserve = self.policy.disk_reserve_bytes;
        for free in [reserve, reserve - 1] {
            let of = |vm: &VmId| (*vm, vm.bits() % 3 * 10);
            let stalled = seen.running.iter().filter(|vm| vm.bits() % 2 == 0);
            let seen = Observed {
                stalled: stalled.copied().collect(),
                disk_bytes: self.host.keys().map(of).collect(),
                free_disk_bytes: Some(free),
                ..seen.clone()
            };
            self.is_enough(&busy, Some(seen));
        }
    }

    fn is_enough(&mut self, busy: &BTreeSet<VmId>, seen: Option<Observed>) {
        let whole = Snapshot {
            observed: seen.clone(),
            ..self.snapshot(false)
        };
        let before = Before::new(&self.roster, busy);
        let shown = seen.map(|seen| before.compare(seen).settle(&BTreeSet::new(), &self.roster));
        let amiss = shown.iter().flat_map(Shown::amiss);
        let need = busy.iter().copied().chain(amiss).collect();
        let known = |vm| Heard {
            listening_since: Some(self.listening_since),
            activity: self.activity.get(&vm).copied(),
        };
        self.roster.settle(self.now, &need, known, &self.policy);
        let of_all = shown
            .as_ref()
            .is_some_and(|it| it.concerns_all(&self.policy));
        let Sight { vms, leases, quiet } = match of_all {
            true => self.roster.whole(),
            false => self.roster.restless(),
        };
        let focused = Snapshot {
            observed: shown.map(|shown| shown.of(&vms)),
            vms,
            leases,
            quiet,
            ..whole.clone()
        };
        let all_of = |snapshot: &Snapshot| {
            let (now, policy) = (self.now, &self.policy);
            let pace = Pace {
                start: [(kind("one"), Duration::seconds(3))].into(),
                template: [(kind("one"), Duration::seconds(5))].into(),
            };
            (
                plan(now, snapshot, policy),
                next_wakeup(now, snapshot, policy),
                outlook(now, snapshot, policy, &pace),
            )
        };
        assert_eq!(all_of(&focused), all_of(&whole), "{focused:?} of {whole:?}");
    }
}

fn heard_nothing(_: VmId) -> Heard {
    Heard::default()
}

/// A lease of `ttl_s` seconds that became active at the beginning, and its VM.
fn held(id: u64, ttl_s: u32) -> (LeaseRow, VmRow) {
    let (lease, vm) = (LeaseId::from_bits(id), VmId::from_bits(id));
    let grant = Grant {
        vm,
        port: 20_000,
        ca_pem: String::new(),
        cert_pem: String::new(),
        ssh_host_key: None,
        ready_at: at(0),
        expires_at: at(ttl_s.into()),
        heartbeat_at: at(0),
        warned_of: None,
        warm: false,
        timings: Vec::new(),
    };
    let row = LeaseRow {
        id: lease,
        generation: 2,
        project: "a".to_owned(),
        key: kind("one"),
        ttl_s,
        keepalive_s: None,
        idle_s: None,
        egress: remote_docker_api::Egress::Internet,
        labels: BTreeMap::new(),
        client_csr_pem: String::new(),
        created_at: at(0),
        wait_until: at(60),
        attended: false,
        end_wish: None,
        troubles: 0,
        phase: LeasePhase::Active(Box::new(grant)),
    };
    let vm = VmRow {
        id: vm,
        generation: 5,
        key: kind("one"),
        memory_mib: 1,
        slot: Slot(u16::try_from(id).unwrap()),
        phase: VmPhase::Assigned { lease },
        phase_since: at(0),
    };
    (row, vm)
}

/// The leases and VMs that a plan looks at.
fn looked_at(roster: &Roster) -> (usize, usize) {
    let sight = roster.restless();
    (sight.leases.len(), sight.vms.len())
}

#[test]
fn a_lease_that_needs_nothing_is_left_out_until_it_may_need_something() {
    let (lease, vm) = held(1, 1000);
    let mut roster = Roster::new(vec![vm.clone()], vec![lease.clone()]);
    let none = BTreeSet::new();
    let settled = |roster: &mut Roster, seconds, busy: &BTreeSet<VmId>| {
        roster.settle(at(seconds), busy, heard_nothing, &policy());
        looked_at(roster)
    };
    assert_eq!(looked_at(&roster), (1, 1), "nobody has judged it yet");
    assert_eq!(settled(&mut roster, 1, &none), (0, 0));
    // Somebody works on its VM.
    assert_eq!(settled(&mut roster, 2, &[vm.id].into()), (1, 1));
    assert_eq!(settled(&mut roster, 3, &none), (0, 0));
    // Its holder is to be warned.
    assert_eq!(settled(&mut roster, 939, &none), (0, 0));
    assert_eq!(settled(&mut roster, 940, &none), (1, 1));
    let mut warned = lease.clone();
    if let LeasePhase::Active(grant) = &mut warned.phase {
        grant.warned_of = Some(grant.expires_at);
    }
    roster.put_lease(warned);
    assert_eq!(settled(&mut roster, 941, &none), (0, 0));
    assert_eq!(settled(&mut roster, 1000, &none), (1, 1));
    // It is wished to end, ends, and is gone.
    roster.put_lease(LeaseRow {
        end_wish: Some(remote_docker_api::EndReason::Released),
        ..lease.clone()
    });
    assert_eq!(settled(&mut roster, 1, &none), (1, 1));
    let reason = DestroyReason::LeaseEnded;
    roster.put_vm(VmRow {
        phase: VmPhase::Gone { reason },
        ..vm
    });
    assert_eq!(settled(&mut roster, 1, &none), (1, 0));
    assert_eq!(roster.whole().vms, []);
}

#[test]
fn rows_that_contradict_each_other_are_looked_at() {
    let ((lease, vm), (other, _)) = (held(1, 1000), held(2, 1000));
    let alone = VmRow {
        id: VmId::from_bits(9),
        ..vm.clone()
    };
    let mut roster = Roster::new(vec![vm, alone], vec![lease, other]);
    roster.settle(at(1), &BTreeSet::new(), heard_nothing, &policy());
    // The VM whose lease has another, and the lease without a VM.
    assert_eq!(looked_at(&roster), (1, 1));
}
