//! The tables of transitions, written out in full.

use remote_docker_api::EndReason;

use super::*;

fn vm_phases() -> [VmPhase; 7] {
    let lease = LeaseId::from_bits(1);
    let reason = DestroyReason::Lost;
    [
        VmPhase::Planned,
        VmPhase::Starting,
        VmPhase::Activating,
        VmPhase::Ready,
        VmPhase::Assigned { lease },
        VmPhase::Destroying { reason },
        VmPhase::Gone { reason },
    ]
}

#[test]
fn a_vm_goes_forward_one_step_or_to_its_destruction() {
    // Row: from. Column: to. In the order of the diagram.
    let table = [
        ".x...x.", // Planned
        "..x..x.", // Starting
        "...x.x.", // Activating
        "....xx.", // Ready
        ".....x.", // Assigned
        "......x", // Destroying
        ".......", // Gone
    ];
    for (from, row) in vm_phases().iter().zip(table) {
        for (to, cell) in vm_phases().iter().zip(row.chars()) {
            let legal = check_vm(from, to).is_ok();
            assert_eq!(legal, cell == 'x', "{from:?} → {to:?}");
        }
    }
}

#[test]
fn a_vm_is_gone_for_the_reason_it_was_destroyed_for() {
    let from = VmPhase::Destroying {
        reason: DestroyReason::Stuck,
    };
    let to = VmPhase::Gone {
        reason: DestroyReason::Lost,
    };
    let refused = check_vm(&from, &to).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "a VM cannot go from Destroying { reason: Stuck } to Gone { reason: Lost }"
    );
}

fn lease_phases() -> [LeasePhase; 6] {
    let vm = VmId::from_bits(1);
    let grant = Grant {
        vm,
        port: 1,
        ca_pem: "SECRET".to_owned(),
        cert_pem: "SECRET".to_owned(),
        ssh_host_key: None,
        ready_at: at(1),
        expires_at: at(2),
        heartbeat_at: at(1),
        warned_of: None,
        warm: false,
        timings: Vec::new(),
    };
    let end = |had: bool| LeaseEnd {
        reason: EndReason::Released,
        detail: None,
        ready_at: had.then_some(at(1)),
        expires_at: had.then_some(at(2)),
    };
    let ending = |vm: Option<VmId>| LeasePhase::Ending {
        end: end(vm.is_some()),
        vm,
    };
    let ended = |had| LeasePhase::Ended {
        end: end(had),
        ended_at: at(3),
    };
    [
        LeasePhase::Waiting,
        LeasePhase::Active(Box::new(grant)),
        ending(None),
        ending(Some(vm)),
        ended(false),
        ended(true),
    ]
}

#[test]
fn a_lease_goes_forward_and_keeps_what_it_had() {
    let table = [
        ".xx...", // Waiting
        "...x..", // Active
        "....x.", // Ending, never had a VM
        ".....x", // Ending, had one
        "......", // Ended, never had a VM
        "......", // Ended, had one
    ];
    for (from, row) in lease_phases().iter().zip(table) {
        for (to, cell) in lease_phases().iter().zip(row.chars()) {
            let checked = check_lease(from, to);
            assert_eq!(checked.is_ok(), cell == 'x', "{from:?} → {to:?}");
            if let Err(refused) = checked {
                assert!(!refused.to_string().contains("SECRET"), "{refused}");
            }
        }
    }
}
