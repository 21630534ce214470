use std::net::Ipv4Addr;

use super::*;
use crate::clock::SystemClock;
use crate::guest::{Link, Occurrence};
use crate::hypervisor::ImageFiles;

fn spec(id: u64) -> VmSpec {
    VmSpec {
        id: VmId::from_bits(id),
        source: Source::Cold,
        image: ImageFiles {
            disk: "/d".into(),
            kernel: "/k".into(),
            initrd: "/i".into(),
        },
        vcpus: 1,
        memory_mib: 1024,
        address: Some(Ipv4Addr::LOCALHOST),
        slot: None,
        generation_id: 1,
    }
}

/// A host with two VMs.
async fn two() -> (SimHypervisor, [VmId; 2]) {
    let sim = SimHypervisor::new(Arc::new(SystemClock));
    for id in [1, 2] {
        sim.start(&spec(id)).await.unwrap();
    }
    (sim, [1, 2].map(VmId::from_bits))
}

#[tokio::test]
async fn a_lasting_fault_of_one_vm_ends_when_it_is_lifted_and_is_nobody_elses() {
    let (sim, [one, two]) = two().await;
    sim.always(Some(one), Verb::Destroy, SimFault::Fails);
    for _ in 0..3 {
        sim.destroy(one).await.unwrap_err();
    }
    sim.destroy(two).await.unwrap();
    assert_eq!(sim.vms(), [one]);
    assert!(sim.shows(one).await.unwrap() && !sim.shows(two).await.unwrap());
    sim.lift(Some(one), Verb::Destroy);
    sim.destroy(one).await.unwrap();
    assert_eq!(sim.list().await.unwrap(), Observed::default());
}

#[tokio::test]
async fn who_finds_no_room_stalls_and_goes_on_when_there_is_some() {
    let (sim, [one, two]) = two().await;
    sim.set_free_disk(100);
    sim.take_disk(one, 70);
    sim.take_disk(two, 40);
    let seen = sim.list().await.unwrap();
    assert_eq!(seen.running, BTreeSet::from([one, two]));
    assert_eq!(seen.stalled, BTreeSet::from([two]));
    assert_eq!(seen.disk_bytes, BTreeMap::from([(one, 70), (two, 30)]));
    assert_eq!(seen.free_disk_bytes, Some(0));
    // Without room it stalls again.
    sim.resume(two).await.unwrap();
    assert!(sim.is_stalled(two));
    sim.destroy(one).await.unwrap();
    assert_eq!(sim.free_disk().await.unwrap(), 70);
    sim.resume(two).await.unwrap();
    assert!(!sim.is_stalled(two));
    assert_eq!(sim.free_disk().await.unwrap(), 60);
}

#[tokio::test(start_paused = true)]
async fn guests_without_manners() {
    let (sim, [vm, _]) = two().await;
    let limit = Duration::from_secs(30);
    let mut link = Link::new(sim.channel(vm).await.unwrap(), 1);
    link.wait_ready(limit, &guest_protocol::Site::default())
        .await
        .unwrap();
    sim.behave(vm, Manners::Floods);
    for _ in 0..5000 {
        let said = link.next().await.unwrap();
        assert!(matches!(said, Occurrence::Event(_)), "{said:?}");
    }
    let mut link = Link::new(sim.channel(vm).await.unwrap(), 2);
    sim.behave(vm, Manners::Silent);
    link.wait_ready(limit, &guest_protocol::Site::default())
        .await
        .unwrap_err();
    sim.behave(vm, Manners::Rubbish);
    let mut link = Link::new(sim.channel(vm).await.unwrap(), 3);
    link.next().await.unwrap_err();
    sim.behave(vm, Manners::Good);
    let mut link = Link::new(sim.channel(vm).await.unwrap(), 4);
    link.wait_ready(limit, &guest_protocol::Site::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn what_a_guest_said_is_there_until_it_is_destroyed() {
    let (sim, [vm, _]) = two().await;
    sim.say(vm, "booting\r\n\u{1b}[31mKernel panic\u{7}\n");
    sim.crash(vm);
    let tail = sim.console_tail(vm, 1000).await;
    assert!(tail.ends_with("\nbooting\nKernel panic?\n"), "{tail}");
    assert_eq!(sim.console_tail(vm, 8).await, " panic?\n");
    sim.destroy(vm).await.unwrap();
    assert_eq!(sim.console_tail(vm, 1000).await, "");
}
