//! What projects may hold at a time.

use remote_docker_api::Doing;

use super::rules::{active, scene, vm, waiting};
use super::*;

fn of(project: &str, lease: LeaseRow) -> LeaseRow {
    LeaseRow {
        project: project.to_owned(),
        ..lease
    }
}

fn quota(max_leases: Option<u32>, max_memory_mib: Option<u64>) -> Policy {
    let quota = Quota {
        max_leases,
        max_memory_mib,
    };
    Policy {
        quotas: BTreeMap::from([("a".to_owned(), quota)]),
        ..policy()
    }
}

/// Leases of `a` with machines of these kinds, numbered from 1.
fn holding(kinds: &[&str]) -> (Vec<VmRow>, Vec<LeaseRow>) {
    let pair = |(number, name): (u64, &&str)| {
        let lease = LeaseId::from_bits(number);
        let machine = vm(number, name, VmPhase::Assigned { lease });
        let lease = LeaseRow {
            key: kind(name),
            ..of("a", active(number, machine.id))
        };
        (machine, lease)
    };
    (1..).zip(kinds).map(pair).unzip()
}

/// Whom this plan gives a machine, or begins one for.
fn served(snapshot: &Snapshot, policy: &Policy) -> (Vec<LeaseId>, usize) {
    let actions = plan(at(50), snapshot, policy);
    let assigned = actions.iter().filter_map(|action| match action {
        Action::Assign { lease, .. } => Some(*lease),
        _ => None,
    });
    let created = actions.iter();
    let created = created.filter(|action| matches!(action, Action::CreateVm(_)));
    (assigned.collect(), created.count())
}

#[test]
fn a_project_that_has_its_number_waits_and_the_others_go_on() {
    let (mut vms, mut leases) = holding(&["one"]);
    vms.push(vm(8, "one", VmPhase::Ready));
    leases.extend([of("a", waiting(11, "one")), of("b", waiting(12, "one"))]);
    let snapshot = scene(vms, leases);
    let (first, second) = (LeaseId::from_bits(11), LeaseId::from_bits(12));
    assert_eq!(served(&snapshot, &policy()), (vec![second], 1));
    assert_eq!(served(&snapshot, &quota(Some(2), None)), (vec![second], 1));
    assert_eq!(served(&snapshot, &quota(Some(1), None)), (vec![second], 0));

    let told = outlook(at(50), &snapshot, &quota(Some(1), None), &Pace::default());
    let place = |id| (told[&id].position, told[&id].doing);
    assert_eq!(place(second), (1, Doing::Queued));
    assert_eq!(place(first), (2, Doing::Quota));
    assert_eq!(told[&first].estimated_wait_s, None);
}

#[test]
fn memory_counts_as_the_machines_have_it() {
    let (vms, mut leases) = holding(&["two", "one"]);
    leases.extend([of("a", waiting(11, "two"))]);
    let mut snapshot = scene(vms, leases);
    assert_eq!(served(&snapshot, &quota(None, Some(5))), (vec![], 1));
    assert_eq!(served(&snapshot, &quota(None, Some(4))), (vec![], 0));
    // The size was another one when that machine was made.
    snapshot.vms[0].memory_mib = 3;
    assert_eq!(served(&snapshot, &quota(None, Some(5))), (vec![], 0));
}

#[test]
fn who_waits_for_the_quota_is_not_overtaken_by_the_smaller_ones_of_its_project() {
    let (vms, mut leases) = holding(&["one"]);
    leases.extend([of("a", waiting(11, "four")), of("a", waiting(12, "one"))]);
    let snapshot = scene(vms, leases);
    assert_eq!(served(&snapshot, &quota(None, Some(4))), (vec![], 0));
    // One that never fits is nobody's turn.
    assert_eq!(served(&snapshot, &quota(None, Some(3))), (vec![], 1));
}

#[test]
fn as_many_get_one_at_once_as_there_is_room_for_in_the_quota() {
    let stock = (1..=3).map(|id| vm(id, "one", VmPhase::Ready)).collect();
    let all = (11..=14).map(|id| of("a", waiting(id, "one"))).collect();
    let snapshot = scene(stock, all);
    let ids = [11, 12].map(LeaseId::from_bits).to_vec();
    assert_eq!(served(&snapshot, &quota(Some(2), None)), (ids.clone(), 0));
    assert_eq!(served(&snapshot, &quota(None, Some(2))), (ids, 0));
}

#[test]
fn one_that_is_being_handed_a_machine_counts() {
    let stock = vec![vm(1, "one", VmPhase::Ready), vm(2, "one", VmPhase::Ready)];
    let all = vec![of("a", waiting(11, "one")), of("a", waiting(12, "one"))];
    let mut snapshot = scene(stock, all);
    snapshot.busy_vms.insert(VmId::from_bits(1));
    snapshot.busy_leases.insert(LeaseId::from_bits(11));
    let second = LeaseId::from_bits(12);
    assert_eq!(served(&snapshot, &quota(Some(2), None)), (vec![second], 0));
    assert_eq!(served(&snapshot, &quota(Some(1), None)), (vec![], 0));
}

#[test]
fn one_that_is_about_to_end_counts_until_that_is_written() {
    let (vms, mut leases) = holding(&["one"]);
    leases[0].end_wish = Some(remote_docker_api::EndReason::Released);
    leases.push(of("a", waiting(11, "one")));
    let mut snapshot = scene(vms, leases);
    assert_eq!(served(&snapshot, &quota(Some(1), None)), (vec![], 0));
    let LeasePhase::Active(grant) = snapshot.leases[0].phase.clone() else {
        panic!("it is active");
    };
    snapshot.leases[0].phase = LeasePhase::Ending {
        end: LeaseEnd {
            reason: remote_docker_api::EndReason::Released,
            detail: None,
            ready_at: None,
            expires_at: None,
        },
        vm: Some(grant.vm),
    };
    snapshot.vms[0].phase = VmPhase::Destroying {
        reason: DestroyReason::LeaseEnded,
    };
    assert_eq!(served(&snapshot, &quota(Some(1), None)), (vec![], 1));
}

#[test]
fn what_cannot_be_had_takes_nothing_from_its_project() {
    let all = vec![of("a", waiting(11, "nine")), of("a", waiting(12, "one"))];
    let mut snapshot = scene(vec![], all);
    assert_eq!(served(&snapshot, &quota(Some(1), None)), (vec![], 1));
    snapshot.leases[0].key = kind("two");
    snapshot.held_back.insert(kind("two"), at(60));
    assert_eq!(served(&snapshot, &quota(Some(1), None)), (vec![], 1));
}
