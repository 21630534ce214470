//! The planner's rules one by one, each with the situation in which it decides.

use remote_docker_api::{Egress, EndReason};

use super::*;
use crate::hypervisor::Observed;

const VM: VmId = VmId::from_bits(1);
const LEASE: LeaseId = LeaseId::from_bits(2);

pub(super) fn vm(id: u64, name: &str, phase: VmPhase) -> VmRow {
    VmRow {
        id: VmId::from_bits(id),
        generation: 1,
        key: kind(name),
        memory_mib: policy().sizes[&kind(name)],
        slot: Slot(id as u16),
        phase,
        phase_since: at(0),
    }
}

pub(super) fn waiting(id: u64, name: &str) -> LeaseRow {
    LeaseRow {
        id: LeaseId::from_bits(id),
        generation: 1,
        project: "default".to_owned(),
        key: kind(name),
        ttl_s: 100,
        keepalive_s: None,
        idle_s: None,
        egress: Egress::Internet,
        labels: BTreeMap::new(),
        client_csr_pem: String::new(),
        created_at: at(i64::try_from(id).unwrap()),
        wait_until: at(1000),
        attended: false,
        end_wish: None,
        troubles: 0,
        phase: LeasePhase::Waiting,
    }
}

pub(super) fn active(id: u64, vm: VmId) -> LeaseRow {
    let grant = Grant {
        vm,
        port: 20_000,
        ca_pem: String::new(),
        cert_pem: String::new(),
        ssh_host_key: None,
        ready_at: at(0),
        expires_at: at(100),
        heartbeat_at: at(0),
        // The rules in this file are about other things.
        warned_of: Some(at(100)),
        warm: false,
        timings: Vec::new(),
    };
    LeaseRow {
        phase: LeasePhase::Active(Box::new(grant)),
        ..waiting(id, "one")
    }
}

pub(super) fn running(vms: &[u64]) -> Option<Observed> {
    Some(Observed {
        running: vms.iter().map(|id| VmId::from_bits(*id)).collect(),
        ..Observed::default()
    })
}

/// Templates of all kinds are there, and the process knows all of the first ten VMs.
pub(super) fn scene(vms: Vec<VmRow>, leases: Vec<LeaseRow>) -> Snapshot {
    let ids: BTreeSet<_> = (0..10).map(VmId::from_bits).collect();
    let templates = policy().sizes.into_keys();
    Snapshot {
        vms,
        leases,
        connected: ids.clone(),
        keyed: ids,
        templates: templates.map(|key| (key, TemplateState::Ready)).collect(),
        ..Snapshot::default()
    }
}

pub(super) fn planned(now: i64, scene: &Snapshot) -> Vec<Action> {
    plan(at(now), scene, &policy())
}

fn destroy(reason: DestroyReason) -> Vec<Action> {
    vec![Action::Destroy { vm: VM, reason }]
}

fn end(reason: EndReason) -> Vec<Action> {
    vec![Action::EndLease {
        lease: LEASE,
        reason,
    }]
}

#[test]
fn a_vm_on_its_way_takes_the_step_of_its_phase() {
    let lease = || vec![waiting(2, "one")];
    let scene = |phase| scene(vec![vm(1, "one", phase)], lease());
    let assign = Action::Assign {
        lease: LEASE,
        vm: VM,
    };
    assert_eq!(planned(5, &scene(VmPhase::Planned)), [Action::Start(VM)]);
    let activating = scene(VmPhase::Activating);
    assert_eq!(planned(5, &activating), [Action::Activate(VM)]);
    assert_eq!(planned(5, &scene(VmPhase::Ready)), [assign]);
    let reason = DestroyReason::Lost;
    let mut destroying = scene(VmPhase::Destroying { reason });
    destroying.leases.clear();
    assert_eq!(planned(5, &destroying), [Action::TearDown(VM)]);
    // An action in flight is waited for.
    for phase in [
        VmPhase::Planned,
        VmPhase::Starting,
        VmPhase::Activating,
        VmPhase::Destroying { reason },
    ] {
        let mut scene = scene(phase);
        scene.busy_vms.insert(VM);
        if let VmPhase::Destroying { .. } = phase {
            scene.leases.clear();
        }
        assert_eq!(planned(5, &scene), [], "{phase:?}");
    }
}

#[test]
fn what_a_restart_interrupted_is_destroyed_and_what_was_only_planned_goes_on() {
    let after_restart = |phase| Snapshot {
        connected: BTreeSet::new(),
        keyed: BTreeSet::new(),
        ..scene(vec![vm(1, "one", phase)], vec![waiting(2, "one")])
    };
    let planned_vm = after_restart(VmPhase::Planned);
    assert_eq!(planned(1, &planned_vm), [Action::Start(VM)]);
    for phase in [VmPhase::Starting, VmPhase::Activating, VmPhase::Ready] {
        let actions = planned(1, &after_restart(phase));
        let destroyed = destroy(DestroyReason::Interrupted);
        assert!(actions.ends_with(&destroyed), "{phase:?}: {actions:?}");
    }
    let held = vm(1, "one", VmPhase::Assigned { lease: LEASE });
    let survives = Snapshot {
        observed: running(&[1]),
        connected: BTreeSet::new(),
        keyed: BTreeSet::new(),
        ..scene(vec![held], vec![active(2, VM)])
    };
    assert_eq!(planned(1, &survives), []);
}

#[test]
fn a_phase_over_its_deadline_ends_even_while_its_action_hangs() {
    for (phase, busy) in [(VmPhase::Starting, true), (VmPhase::Activating, false)] {
        let mut scene = scene(vec![vm(1, "one", phase)], vec![]);
        if busy {
            scene.busy_vms.insert(VM);
        }
        assert_ne!(planned(9, &scene), destroy(DestroyReason::Stuck));
        assert_eq!(planned(10, &scene), destroy(DestroyReason::Stuck));
        assert_eq!(next_wakeup(at(9), &scene, &policy()), Some(at(10)));
    }
}

#[test]
fn a_vm_that_the_host_no_longer_runs_is_lost() {
    let mut idle = scene(vec![vm(1, "one", VmPhase::Ready)], vec![]);
    assert_eq!(planned(5, &idle), [], "nobody asked the host");
    idle.observed = running(&[1]);
    assert_eq!(planned(5, &idle), []);
    idle.observed = running(&[]);
    assert_eq!(planned(5, &idle), destroy(DestroyReason::Lost));

    let held = vm(1, "one", VmPhase::Assigned { lease: LEASE });
    let mut held = scene(vec![held], vec![active(2, VM)]);
    assert_eq!(planned(5, &held), []);
    held.observed = running(&[]);
    assert_eq!(planned(5, &held), end(EndReason::VmLost));
}

#[test]
fn rows_that_contradict_each_other_are_put_right() {
    let without_vm = scene(vec![], vec![active(2, VM)]);
    assert_eq!(planned(5, &without_vm), end(EndReason::VmLost));
    let held = vm(1, "one", VmPhase::Assigned { lease: LEASE });
    let without_lease = scene(vec![held], vec![]);
    let unheld = destroy(DestroyReason::LeaseEnded);
    assert_eq!(planned(5, &without_lease), unheld);
}

#[test]
fn a_lease_ends_by_wish_or_by_time_and_the_wish_is_the_reason() {
    let held = vm(1, "one", VmPhase::Assigned { lease: LEASE });
    let mut scene = scene(vec![held], vec![active(2, VM)]);
    assert_eq!(planned(99, &scene), []);
    assert_eq!(next_wakeup(at(99), &scene, &policy()), Some(at(100)));
    assert_eq!(planned(100, &scene), end(EndReason::Expired));
    scene.leases[0].end_wish = Some(EndReason::Released);
    assert_eq!(planned(100, &scene), end(EndReason::Released));

    scene.vms.clear();
    scene.templates.clear();
    scene.held_back.insert(kind("one"), at(9999));
    scene.leases = vec![waiting(2, "one")];
    assert_eq!(planned(999, &scene), []);
    assert_eq!(planned(1000, &scene), end(EndReason::WaitTimeout));
    scene.leases[0].end_wish = Some(EndReason::ClientGone);
    assert_eq!(planned(5, &scene), end(EndReason::ClientGone));
}

#[test]
fn a_lease_is_finished_when_its_vm_is_gone() {
    let mut lease = waiting(2, "one");
    lease.phase = LeasePhase::Ending {
        end: LeaseEnd {
            reason: EndReason::Released,
            detail: None,
            ready_at: None,
            expires_at: None,
        },
        vm: Some(VM),
    };
    let reason = DestroyReason::LeaseEnded;
    let row = vm(1, "one", VmPhase::Destroying { reason });
    let mut scene = scene(vec![row], vec![lease]);
    assert_eq!(planned(5, &scene), [Action::TearDown(VM)]);
    scene.vms.clear();
    assert_eq!(planned(5, &scene), [Action::FinishLease(LEASE)]);
}

#[test]
fn what_no_row_knows_is_swept_unless_it_is_being_worked_on() {
    let mut scene = scene(vec![], vec![]);
    scene.observed = Some(Observed {
        running: [VmId::from_bits(7)].into(),
        remnants: [VmId::from_bits(5)].into(),
        ..Observed::default()
    });
    let sweep = |id| Action::SweepOrphan(VmId::from_bits(id));
    assert_eq!(planned(5, &scene), [sweep(5), sweep(7)]);
    scene.busy_vms.insert(VmId::from_bits(7));
    assert_eq!(planned(5, &scene), [sweep(5)]);
}

#[test]
fn a_missing_template_is_built_once_before_any_vm() {
    let leases = vec![waiting(2, "two"), waiting(3, "two"), waiting(4, "one")];
    let mut scene = scene(vec![], leases);
    let two = || kind("two");
    scene.templates.remove(&two());
    let build = Action::BuildTemplate(two());
    let one = Action::CreateVm(kind("one"));
    assert_eq!(planned(5, &scene), [build, one.clone()]);
    scene.templates.insert(two(), TemplateState::Building);
    assert_eq!(planned(5, &scene), std::slice::from_ref(&one));
    scene.templates.insert(two(), TemplateState::Unavailable);
    let create = || Action::CreateVm(two());
    assert_eq!(planned(5, &scene), [create(), create(), one]);
    // The last slot is kept for who waits for the template, while its memory is the build's.
    scene.templates.insert(two(), TemplateState::Building);
    let four = (2..=5).map(|id| vm(id, "one", VmPhase::Assigned { lease: LEASE }));
    scene.vms = four.collect();
    scene.leases.remove(1);
    scene.busy_vms = scene.vms.iter().map(|vm| vm.id).collect();
    assert_eq!(planned(5, &scene), []);
    scene.vms.pop();
    assert_eq!(planned(5, &scene), [Action::CreateVm(kind("one"))]);
    scene.busy_vms.clear();
    // Begun before its template went missing.
    scene.vms = vec![vm(1, "two", VmPhase::Planned)];
    scene.leases = vec![waiting(2, "two")];
    assert_eq!(planned(5, &scene), [], "it waits for the template");
}

#[test]
fn the_oldest_that_does_not_fit_holds_the_memory_but_not_the_stock() {
    let assigned = |id| VmPhase::Assigned {
        lease: LeaseId::from_bits(id),
    };
    let vms = vec![vm(1, "four", assigned(5)), vm(2, "one", VmPhase::Ready)];
    let mut holder = active(5, VM);
    holder.key = kind("four");
    let leases = vec![
        holder,
        waiting(6, "nine"),
        waiting(7, "four"),
        waiting(8, "two"),
        waiting(9, "one"),
    ];
    let expected = [Action::Assign {
        lease: LeaseId::from_bits(9),
        vm: VmId::from_bits(2),
    }];
    // Three of eight units are free: enough for the "two", which is younger than the "four". The
    // "nine" can never be had and holds up nobody.
    assert_eq!(planned(10, &scene(vms, leases)), expected);
}

#[test]
fn stock_makes_room_for_whoever_waits_only_if_that_is_enough() {
    let assigned = VmPhase::Assigned { lease: LEASE };
    let mut vms = vec![
        vm(1, "four", assigned),
        vm(3, "one", VmPhase::Ready),
        vm(4, "two", VmPhase::Ready),
    ];
    vms[1].phase_since = at(3);
    let mut policy = policy();
    policy.targets = [(kind("one"), 1), (kind("two"), 1)].into();
    let leases = vec![active(2, VM), waiting(5, "four")];
    let surplus = |id| Action::Destroy {
        vm: VmId::from_bits(id),
        reason: DestroyReason::Surplus,
    };
    // One unit is free, four are needed, stock holds three.
    let full = scene(vms.clone(), leases.clone());
    assert_eq!(plan(at(10), &full, &policy), [surplus(3), surplus(4)]);
    // While they are on their way out nothing else has to go.
    let mut leaving = full;
    for vm in &mut leaving.vms[1..] {
        vm.phase = VmPhase::Destroying {
            reason: DestroyReason::Surplus,
        };
    }
    let tear_down = |id| Action::TearDown(VmId::from_bits(id));
    let expected = [tear_down(3), tear_down(4)];
    assert_eq!(plan(at(10), &leaving, &policy), expected);
    let two_wait = vec![active(2, VM), waiting(5, "two")];
    let mut half = scene(vms.clone(), two_wait);
    half.vms[2].phase = VmPhase::Destroying {
        reason: DestroyReason::Surplus,
    };
    half.vms.push(vm(6, "one", VmPhase::Ready));
    assert_eq!(plan(at(10), &half, &policy), [tear_down(4)]);
    // With a second "one" held by somebody, all of the stock would not be enough.
    vms[1].phase = VmPhase::Starting;
    let mut short = scene(vms, leases);
    short.busy_vms.insert(VmId::from_bits(3));
    assert_eq!(plan(at(9), &short, &policy), []);
}

#[test]
fn the_stock_is_filled_up_to_its_target_and_what_is_over_is_kept_for_a_while() {
    let mut policy = policy();
    policy.targets = [(kind("one"), 2)].into();
    let create = || Action::CreateVm(kind("one"));
    let empty = scene(vec![], vec![waiting(2, "one")]);
    assert_eq!(plan(at(5), &empty, &policy), [create(), create(), create()]);

    let ready = |id| vm(id, "one", VmPhase::Ready);
    let mut over = scene(vec![ready(1), ready(2), ready(3)], vec![]);
    assert_eq!(plan(at(19), &over, &policy), []);
    assert_eq!(next_wakeup(at(19), &over, &policy), Some(at(20)));
    assert_eq!(
        plan(at(20), &over, &policy),
        destroy(DestroyReason::Surplus)
    );
    // What is not even begun goes first, and at once.
    over.vms[2].phase = VmPhase::Planned;
    let planned_one = Action::Destroy {
        vm: VmId::from_bits(3),
        reason: DestroyReason::Surplus,
    };
    assert_eq!(plan(at(5), &over, &policy), [planned_one]);
}

#[test]
fn a_kind_that_just_failed_is_held_back_and_others_are_not() {
    let leases = vec![waiting(2, "one"), waiting(3, "two")];
    let mut scene = scene(vec![], leases);
    scene.held_back.insert(kind("one"), at(30));
    let create = |name| Action::CreateVm(kind(name));
    assert_eq!(planned(29, &scene), [create("two")]);
    assert_eq!(next_wakeup(at(29), &scene, &policy()), Some(at(30)));
    assert_eq!(planned(30, &scene), [create("one"), create("two")]);
    // What is planned already does not start either.
    scene.vms = vec![vm(1, "one", VmPhase::Planned)];
    assert_eq!(planned(29, &scene), [create("two")]);
}

#[test]
fn routes_lead_to_the_address_of_the_slot_and_never_to_a_vm_of_another() {
    let network = std::net::Ipv4Addr::new(10, 213, 0, 0);
    let held = vm(1, "one", VmPhase::Assigned { lease: LEASE });
    let lease = active(2, VM);
    let made = route(&lease, Some(&held), network);
    let guest = "10.213.0.1:2376".parse().unwrap();
    assert_eq!(
        made,
        Some(crate::relay::Route {
            lease: LEASE,
            port: 20_000,
            guest
        })
    );
    assert_eq!(route(&waiting(3, "one"), Some(&held), network), None);
    let other = LeaseId::from_bits(3);
    let other = vm(1, "one", VmPhase::Assigned { lease: other });
    assert_eq!(route(&lease, Some(&other), network), None);
    assert_eq!(route(&lease, None, network), None);
}

#[test]
fn a_vm_that_is_ready_but_not_reported_yet_is_meant_for_who_waits() {
    let mut scene = scene(vec![vm(1, "one", VmPhase::Ready)], vec![waiting(2, "one")]);
    scene.busy_vms.insert(VM);
    assert_eq!(planned(1, &scene), []);
    // Being handed to one lease, it is not meant for another.
    scene.leases.push(waiting(3, "one"));
    scene.busy_leases.insert(LEASE);
    assert_eq!(planned(1, &scene), [Action::CreateVm(kind("one"))]);
}
