//! The disk runs full: who is given up, who waits, who goes on. The reserve is 100 bytes.

use remote_docker_api::EndReason;

use super::rules::{active, planned, running, scene, vm, waiting};
use super::*;

const WRITER: VmId = VmId::from_bits(1);
const QUIET: VmId = VmId::from_bits(2);

/// The first VM belongs to lease 11 and takes 500 bytes, the second to lease 12 and takes 50. So much
/// of the disk is free.
fn low(free: u64) -> Snapshot {
    let assigned = |lease| VmPhase::Assigned {
        lease: LeaseId::from_bits(lease),
    };
    let vms = vec![vm(1, "one", assigned(11)), vm(2, "one", assigned(12))];
    let leases = vec![active(11, WRITER), active(12, QUIET)];
    let mut scene = scene(vms, leases);
    scene.observed = running(&[1, 2]);
    show(&mut scene, &[(1, 500), (2, 50)], free);
    scene
}

fn show(scene: &mut Snapshot, taken: &[(u64, u64)], free: u64) {
    let host = scene.observed.as_mut().unwrap();
    let taken = taken
        .iter()
        .map(|(vm, bytes)| (VmId::from_bits(*vm), *bytes));
    host.disk_bytes = taken.collect();
    host.free_disk_bytes = Some(free);
}

fn full(lease: u64) -> Action {
    Action::EndLease {
        lease: LeaseId::from_bits(lease),
        reason: EndReason::DiskFull,
    }
}

#[test]
fn the_lease_whose_machine_wrote_most_is_given_up_below_the_reserve() {
    assert_eq!(planned(5, &low(100)), []);
    assert_eq!(planned(5, &low(99)), [full(11)]);
    assert_eq!(planned(5, &low(0)), [full(11)]);
    // Nothing is decided on hearsay: only a look at the host says who took what.
    let mut unseen = low(0);
    unseen.observed = None;
    unseen.free_disk_bytes = Some(0);
    assert_eq!(planned(5, &unseen), []);
}

#[test]
fn one_that_is_worked_on_is_left_alone() {
    let mut scene = low(70);
    scene.busy_vms.insert(WRITER);
    assert_eq!(planned(5, &scene), [full(12)]);
}

#[test]
fn nobody_else_goes_while_the_space_of_one_comes_back() {
    let mut scene = low(0);
    let reason = DestroyReason::LeaseEnded;
    scene.vms[0].phase = VmPhase::Destroying { reason };
    scene.vms[0].phase_since = at(5);
    scene.leases.remove(0);
    scene.busy_vms.insert(WRITER);
    show(&mut scene, &[(1, 500), (2, 150)], 0);
    assert_eq!(planned(6, &scene), []);
    assert_eq!(planned(19, &scene), []);
    // It does not come back: perhaps it never will.
    assert_eq!(planned(20, &scene), [full(12)]);
    // What the one leaves is not enough.
    show(&mut scene, &[(1, 99), (2, 150)], 0);
    assert_eq!(planned(6, &scene), [full(12)]);
}

#[test]
fn one_that_ends_by_itself_is_enough() {
    let mut scene = low(0);
    scene.leases[0].end_wish = Some(EndReason::Released);
    let end = Action::EndLease {
        lease: LeaseId::from_bits(11),
        reason: EndReason::Released,
    };
    assert_eq!(planned(5, &scene), [end]);
}

#[test]
fn spare_machines_go_first_if_that_helps() {
    let mut scene = low(0);
    scene.vms.push(vm(3, "one", VmPhase::Ready));
    scene.vms.push(vm(4, "one", VmPhase::Ready));
    scene.observed.as_mut().unwrap().running = (1..=4).map(VmId::from_bits).collect();
    let surplus = |id| Action::Destroy {
        vm: VmId::from_bits(id),
        reason: DestroyReason::Surplus,
    };
    show(&mut scene, &[(1, 500), (2, 50), (3, 40), (4, 60)], 0);
    assert_eq!(planned(5, &scene), [surplus(3), surplus(4)]);
    show(&mut scene, &[(1, 500), (2, 50), (3, 40), (4, 60)], 50);
    assert_eq!(planned(5, &scene), [surplus(4)]);
    show(&mut scene, &[(1, 500), (2, 50), (3, 39), (4, 60)], 0);
    assert_eq!(planned(5, &scene), [full(11)]);
}

#[test]
fn nobody_is_given_up_when_somebody_else_fills_the_disk() {
    let mut scene = low(0);
    show(&mut scene, &[(1, 40), (2, 59)], 0);
    scene.observed.as_mut().unwrap().stalled = [WRITER].into();
    assert_eq!(planned(5, &scene), []);
    show(&mut scene, &[(1, 40), (2, 60)], 0);
    assert_eq!(planned(5, &scene), [full(12)]);
}

#[test]
fn leases_wait_while_the_disk_is_low() {
    let mut scene = scene(vec![], vec![waiting(11, "one")]);
    scene.free_disk_bytes = Some(100);
    assert_eq!(planned(5, &scene), [Action::CreateVm(kind("one"))]);
    scene.free_disk_bytes = Some(99);
    assert_eq!(planned(5, &scene), []);
    // What the look shows counts as well, whichever is older.
    scene.free_disk_bytes = Some(1000);
    scene.observed = running(&[]);
    show(&mut scene, &[], 99);
    assert_eq!(planned(5, &scene), []);
    // Nor is anything begun that has a row, or a template.
    scene.vms.push(vm(1, "one", VmPhase::Planned));
    assert_eq!(planned(5, &scene), []);
    scene.vms.clear();
    scene.templates.clear();
    assert_eq!(planned(5, &scene), []);
    show(&mut scene, &[], 100);
    assert_eq!(planned(5, &scene), [Action::BuildTemplate(kind("one"))]);
}

#[test]
fn those_who_found_no_room_go_on_when_there_is_some() {
    let mut scene = low(100);
    scene.observed.as_mut().unwrap().stalled = [WRITER, QUIET].into();
    let resume = |vm| Action::Resume(vm);
    assert_eq!(planned(5, &scene), [resume(WRITER), resume(QUIET)]);
    scene.busy_vms.insert(WRITER);
    assert_eq!(planned(5, &scene), [resume(QUIET)]);
    scene.busy_vms.clear();
    // Not the one that is given up, and nobody as long as there is none.
    show(&mut scene, &[(1, 500), (2, 50)], 99);
    assert_eq!(planned(5, &scene), [full(11)]);
    show(&mut scene, &[(1, 500), (2, 50)], 100);
    scene.leases[0].end_wish = Some(EndReason::Released);
    assert_eq!(planned(5, &scene)[1..], [resume(QUIET)]);
}
