//! A world in memory that carries out what the planner says: rows, a host, actions that take time
//! and fail, and a server that can be killed. It is written as plainly as possible, because it is
//! what the planner is measured against.

use remote_docker_api::{Egress, EndReason};

use super::*;
use crate::hypervisor::Observed;

/// An action whose end is still to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Flight {
    Start(VmId),
    Activate(VmId),
    Assign(LeaseId, VmId),
    TearDown(VmId),
    Sweep(VmId),
    Build(PoolKey, VmId),
}

/// What somebody asks for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) project: &'static str,
    pub(super) kind: &'static str,
    pub(super) ttl_s: u32,
    pub(super) keepalive_s: Option<u32>,
    pub(super) idle_s: Option<u32>,
    pub(super) wait_s: i64,
    pub(super) attended: bool,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: OffsetDateTime,
    pub(super) policy: Policy,
    /// Every VM and lease there ever was.
    pub(super) vms: BTreeMap<VmId, VmRow>,
    pub(super) leases: BTreeMap<LeaseId, LeaseRow>,
    /// What is on the host; `true` when it runs.
    pub(super) host: BTreeMap<VmId, bool>,
    pub(super) flights: Vec<Flight>,
    pub(super) connected: BTreeSet<VmId>,
    pub(super) keyed: BTreeSet<VmId>,
    pub(super) templates: BTreeMap<PoolKey, TemplateState>,
    pub(super) held_back: BTreeMap<PoolKey, OffsetDateTime>,
    pub(super) failures: BTreeMap<PoolKey, Vec<OffsetDateTime>>,
    pub(super) listening_since: OffsetDateTime,
    pub(super) activity: BTreeMap<VmId, Activity>,
    pub(super) unwell: BTreeSet<VmId>,
    /// Whom each VM was ever handed to.
    pub(super) served: BTreeMap<VmId, BTreeSet<LeaseId>>,
    /// The same rows as a server keeps them that is told what changes.
    pub(super) roster: Roster,
    /// VMs whose guest said something since the roster was told.
    pub(super) stirred: BTreeSet<VmId>,
    next_id: u64,
}

impl World {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            now: T0,
            policy,
            vms: BTreeMap::new(),
            leases: BTreeMap::new(),
            host: BTreeMap::new(),
            flights: Vec::new(),
            connected: BTreeSet::new(),
            keyed: BTreeSet::new(),
            templates: BTreeMap::new(),
            held_back: BTreeMap::new(),
            failures: BTreeMap::new(),
            listening_since: T0,
            activity: BTreeMap::new(),
            unwell: BTreeSet::new(),
            served: BTreeMap::new(),
            roster: Roster::default(),
            stirred: BTreeSet::new(),
            next_id: 1,
        }
    }

    fn draw(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn ask(&mut self, asked: &Asked) {
        let id = LeaseId::from_bits(self.draw());
        let lease = LeaseRow {
            id,
            generation: 1,
            project: asked.project.to_owned(),
            key: kind(asked.kind),
            ttl_s: asked.ttl_s,
            keepalive_s: asked.keepalive_s,
            idle_s: asked.idle_s,
            egress: Egress::Internet,
            labels: BTreeMap::new(),
            client_csr_pem: String::new(),
            created_at: self.now,
            wait_until: self.now + Duration::seconds(asked.wait_s),
            attended: asked.attended,
            end_wish: None,
            troubles: 0,
            phase: LeasePhase::Waiting,
        };
        self.leases.insert(id, lease);
    }

    /// What the holder of an active lease may change of it.
    pub(super) fn hold(&mut self, id: LeaseId, change: impl FnOnce(&mut Grant)) {
        let lease = self.leases.get_mut(&id).unwrap();
        if let (LeasePhase::Active(grant), None) = (&mut lease.phase, lease.end_wish) {
            change(grant);
            lease.generation += 1;
        }
    }

    pub(super) fn wish(&mut self, id: LeaseId, reason: EndReason) {
        let lease = self.leases.get_mut(&id).unwrap();
        if matches!(lease.phase, LeasePhase::Waiting | LeasePhase::Active(_)) {
            lease.end_wish.get_or_insert(reason);
        }
    }

    /// Something of ours that no row knows is on the host.
    pub(super) fn stray(&mut self, running: bool) {
        let id = VmId::from_bits(self.draw());
        self.host.insert(id, running);
    }

    /// The server dies and starts again. `done` says how far each action had come.
    pub(super) fn restart(&mut self, done: bool) {
        for flight in std::mem::take(&mut self.flights) {
            match flight {
                Flight::Start(vm) => drop(self.host.insert(vm, done)),
                Flight::TearDown(vm) | Flight::Sweep(vm) if done => drop(self.host.remove(&vm)),
                Flight::Build(key, vm) => {
                    self.host.insert(vm, done);
                    self.templates.insert(key, TemplateState::Missing);
                }
                _ => {}
            }
        }
        self.connected.clear();
        self.keyed.clear();
        self.held_back.clear();
        self.failures.clear();
        self.listening_since = self.now;
        self.activity.clear();
        self.unwell.clear();
        // A server that starts has read all rows.
        self.roster = Roster::new(
            self.live_vms().cloned().collect(),
            (self.leases.values())
                .filter(|lease| !has_ended(lease))
                .cloned()
                .collect(),
        );
        for lease in self.leases.values_mut() {
            if lease.phase == LeasePhase::Waiting && lease.attended {
                lease.end_wish.get_or_insert(EndReason::ClientGone);
            }
        }
    }

    pub(super) fn snapshot(&self, observe: bool) -> Snapshot {
        let mut busy_vms = BTreeSet::new();
        let mut busy_leases = BTreeSet::new();
        for flight in &self.flights {
            let (Flight::Start(vm)
            | Flight::Activate(vm)
            | Flight::Assign(_, vm)
            | Flight::TearDown(vm)
            | Flight::Sweep(vm)
            | Flight::Build(_, vm)) = flight;
            assert!(
                busy_vms.insert(*vm),
                "two actions on {vm}: {:?}",
                self.flights
            );
            if let Flight::Assign(lease, _) = flight {
                assert!(busy_leases.insert(*lease), "two actions on {lease}");
            }
        }
        let on_host = |runs: bool| {
            let these = self
                .host
                .iter()
                .filter(move |(_, running)| **running == runs);
            these.map(|(vm, _)| *vm).collect()
        };
        Snapshot {
            vms: self
                .vms
                .values()
                .filter(|vm| !is_gone(vm))
                .cloned()
                .collect(),
            leases: self
                .leases
                .values()
                .filter(|lease| !has_ended(lease))
                .cloned()
                .collect(),
            observed: observe.then(|| Observed {
                running: on_host(true),
                remnants: on_host(false),
                ..Observed::default()
            }),
            busy_vms,
            busy_leases,
            connected: self.connected.clone(),
            keyed: self.keyed.clone(),
            templates: self.templates.clone(),
            held_back: self.held_back.clone(),
            failures: self.failures.clone(),
            listening_since: Some(self.listening_since),
            activity: self.activity.clone(),
            unwell: self.unwell.clone(),
            free_disk_bytes: None,
            quiet: Arc::default(),
        }
    }

    /// Plans once and begins everything. Answers what was planned.
    pub(super) fn reconcile(&mut self, observe: bool) -> Vec<Action> {
        self.a_look_at_the_restless_is_enough();
        let actions = plan(self.now, &self.snapshot(observe), &self.policy);
        for action in actions.clone() {
            self.begin(action);
        }
        actions
    }

    fn begin(&mut self, action: Action) {
        match action {
            Action::EndLease { lease, reason } => self.end_lease(lease, reason),
            Action::Warn { lease, of, .. } => self.hold(lease, |grant| grant.warned_of = Some(of)),
            Action::Assign { lease, vm } => self.flights.push(Flight::Assign(lease, vm)),
            Action::Activate(vm) => self.flights.push(Flight::Activate(vm)),
            Action::Start(vm) => {
                self.advance(vm, VmPhase::Starting);
                self.flights.push(Flight::Start(vm));
            }
            Action::BuildTemplate(key) => {
                let vm = VmId::from_bits(self.draw());
                self.host.insert(vm, true);
                self.templates.insert(key.clone(), TemplateState::Building);
                self.flights.push(Flight::Build(key, vm));
            }
            Action::CreateVm(key) => self.create_vm(key),
            Action::Destroy { vm, reason } => self.advance(vm, VmPhase::Destroying { reason }),
            Action::TearDown(vm) => self.flights.push(Flight::TearDown(vm)),
            Action::FinishLease(lease) => {
                let LeasePhase::Ending { end, .. } = self.leases[&lease].phase.clone() else {
                    panic!("{lease} is finished before it ends");
                };
                let ended_at = self.now;
                self.set_lease(lease, LeasePhase::Ended { end, ended_at });
            }
            Action::Resume(vm) => panic!("{vm} does not stand still"),
            Action::SweepOrphan(vm) => self.flights.push(Flight::Sweep(vm)),
        }
    }

    /// Ends one of the actions in flight.
    pub(super) fn land(&mut self, index: usize, ok: bool) {
        match self.flights.remove(index) {
            Flight::Start(vm) => {
                self.host.insert(vm, ok);
                // Its row may have moved on because it took too long.
                if self.vms[&vm].phase == VmPhase::Starting {
                    if ok {
                        self.connected.insert(vm);
                        self.advance(vm, VmPhase::Activating);
                    } else {
                        self.fail(vm, DestroyReason::StartFailed);
                    }
                }
            }
            Flight::Activate(vm) => {
                let ok = ok && self.host.get(&vm) == Some(&true);
                if self.vms[&vm].phase == VmPhase::Activating {
                    if ok {
                        self.keyed.insert(vm);
                        self.failures.remove(&self.vms[&vm].key);
                        self.advance(vm, VmPhase::Ready);
                    } else {
                        self.fail(vm, DestroyReason::ActivationFailed);
                    }
                }
            }
            Flight::Assign(lease, vm) => {
                if ok {
                    self.assign(lease, vm);
                }
            }
            Flight::TearDown(vm) => {
                if ok {
                    self.host.remove(&vm);
                    let VmPhase::Destroying { reason } = self.vms[&vm].phase else {
                        panic!("{vm} is torn down while {:?}", self.vms[&vm].phase);
                    };
                    self.advance(vm, VmPhase::Gone { reason });
                } else if let Some(running) = self.host.get_mut(&vm) {
                    *running = false;
                }
            }
            Flight::Sweep(vm) => {
                if ok {
                    self.host.remove(&vm);
                }
            }
            Flight::Build(key, vm) => {
                if ok {
                    self.host.remove(&vm);
                    self.templates.insert(key, TemplateState::Ready);
                } else {
                    self.host.insert(vm, false);
                    self.templates.insert(key, TemplateState::Unavailable);
                }
            }
        }
    }

    fn fail(&mut self, vm: VmId, reason: DestroyReason) {
        let until = self.now + Duration::seconds(30);
        let key = self.vms[&vm].key.clone();
        self.held_back.insert(key.clone(), until);
        self.failures.entry(key).or_default().push(self.now);
        self.advance(vm, VmPhase::Destroying { reason });
    }

    fn create_vm(&mut self, key: PoolKey) {
        let used: BTreeSet<u16> = self.live_vms().map(|vm| vm.slot.0).collect();
        let slot = (1..).find(|slot| !used.contains(slot)).unwrap();
        let vm = VmRow {
            id: VmId::from_bits(self.draw()),
            generation: 1,
            memory_mib: self.policy.sizes[&key],
            key,
            slot: Slot(slot),
            phase: VmPhase::Planned,
            phase_since: self.now,
        };
        self.vms.insert(vm.id, vm);
    }

    fn assign(&mut self, lease: LeaseId, vm: VmId) {
        // Compare and set, as the store does it.
        let row = &self.leases[&lease];
        if row.phase != LeasePhase::Waiting || row.end_wish.is_some() {
            return;
        }
        if self.vms[&vm].phase != VmPhase::Ready {
            return;
        }
        let used: BTreeSet<u16> = self.grants().map(|(_, grant)| grant.port).collect();
        let grant = Grant {
            vm,
            port: (20_000..).find(|port| !used.contains(port)).unwrap(),
            ca_pem: String::new(),
            cert_pem: String::new(),
            ssh_host_key: None,
            ready_at: self.now,
            expires_at: self.now + Duration::seconds(row.ttl_s.into()),
            heartbeat_at: self.now,
            warned_of: None,
            warm: false,
            timings: Vec::new(),
        };
        self.served.entry(vm).or_default().insert(lease);
        self.set_lease(lease, LeasePhase::Active(Box::new(grant)));
        self.advance(vm, VmPhase::Assigned { lease });
    }

    fn end_lease(&mut self, lease: LeaseId, reason: EndReason) {
        self.is_due(&self.leases[&lease], reason);
        let grant = match self.leases[&lease].phase.clone() {
            LeasePhase::Active(grant) => Some(grant),
            _ => None,
        };
        let end = LeaseEnd {
            reason,
            detail: None,
            ready_at: grant.as_ref().map(|grant| grant.ready_at),
            expires_at: grant.as_ref().map(|grant| grant.expires_at),
        };
        let vm = grant.map(|grant| grant.vm);
        self.set_lease(lease, LeasePhase::Ending { end, vm });
        if let Some(vm) = vm {
            let reason = DestroyReason::LeaseEnded;
            self.advance(vm, VmPhase::Destroying { reason });
        }
    }

    fn set_lease(&mut self, id: LeaseId, next: LeasePhase) {
        let lease = self.leases.get_mut(&id).unwrap();
        check_lease(&lease.phase, &next).unwrap();
        lease.phase = next;
        lease.generation += 1;
    }

    fn advance(&mut self, id: VmId, next: VmPhase) {
        let vm = self.vms.get_mut(&id).unwrap();
        check_vm(&vm.phase, &next).unwrap();
        vm.phase = next;
        vm.phase_since = self.now;
        vm.generation += 1;
    }

    pub(super) fn live_vms(&self) -> impl Iterator<Item = &VmRow> {
        self.vms.values().filter(|vm| !is_gone(vm))
    }

    pub(super) fn grants(&self) -> impl Iterator<Item = (LeaseId, &Grant)> {
        self.leases.values().filter_map(|lease| match &lease.phase {
            LeasePhase::Active(grant) => Some((lease.id, grant.as_ref())),
            _ => None,
        })
    }
}

fn is_gone(vm: &VmRow) -> bool {
    matches!(vm.phase, VmPhase::Gone { .. })
}

fn has_ended(lease: &LeaseRow) -> bool {
    matches!(lease.phase, LeasePhase::Ended { .. })
}
