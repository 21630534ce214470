//! What is on the host of our VMs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use virt::connect::Connect;

use super::domains::{Condition, Found};
use super::{Host, blocking, domains};
use crate::hypervisor::control_groups::Groups;
use crate::hypervisor::domain_xml::Owner;
use crate::hypervisor::folder::{self, file_error};
use crate::hypervisor::{HypervisorError, Observed};
use crate::ids::VmId;

const LIMIT: Duration = Duration::from_secs(30);

/// Looks at domains, wires, folders, control groups and the disk.
///
/// # Errors
/// When any of them cannot be seen: half a view would make running VMs look gone.
pub(super) async fn list(host: &Host) -> Result<Observed, HypervisorError> {
    let install = host.install;
    let seen = host.threads.call("list the VMs", LIMIT, move |connect| {
        domains::ours(connect, install)?
            .into_iter()
            .map(|(owner, domain)| Ok((owner.vm, domains::condition(&domain)?)))
            .collect::<Result<Vec<_>, HypervisorError>>()
    });
    let wires = async { Ok(host.wires.list().await?) };
    let vms = host.vms.clone();
    let folders = blocking("list the VMs' folders", move || {
        folder::list(&vms)?
            .into_iter()
            .map(|vm| {
                let folder = folder::VmFolder::new(&vms, vm);
                if let Err(error) = folder.trim_console() {
                    tracing::warn!(%vm, %error, "{vm}: its console could not be trimmed");
                }
                Ok((vm, folder.disk_bytes()?))
            })
            .collect::<Result<BTreeMap<_, _>, HypervisorError>>()
    });
    let groups = host.in_groups("list the VMs' control groups", Groups::list);
    let (seen, wires, folders, groups) = tokio::try_join!(seen, wires, folders, groups)?;
    let free = free_disk(host).await?;
    Ok(merge(seen, wires.into_iter().chain(groups), folders, free))
}

/// Looks for the domain, the wire, the folder and the control groups of one VM.
///
/// # Errors
/// When any of them cannot be seen.
pub(super) async fn shows(host: &Host, vm: VmId) -> Result<bool, HypervisorError> {
    let owner = Owner {
        install: host.install,
        vm,
    };
    let find =
        move |connect: &Connect| Ok(matches!(domains::find(connect, owner)?, Found::Ours(_)));
    let domain = host.threads.call_for(vm, "look for the VM", LIMIT, find);
    let wire = async { Ok(host.wires.has(vm).await?) };
    let folder = host.folder(vm);
    let folder = blocking("look for the VM's folder", move || {
        let there = folder.path().try_exists();
        there.map_err(|error| file_error("look at", folder.path(), error))
    });
    let group = host.in_groups("look for the VM's control groups", move |groups| {
        groups.has(vm)
    });
    let (domain, wire, folder, group) = tokio::try_join!(domain, wire, folder, group)?;
    Ok(domain || wire || folder || group)
}

/// How much QEMU's user can still write below the folder of all VMs, in bytes.
///
/// # Errors
/// When the system cannot be asked.
pub(super) async fn free_disk(host: &Host) -> Result<u64, HypervisorError> {
    let vms = host.vms.clone();
    blocking("look at the disk", move || room_in(&vms)).await
}

/// How many bytes a user who is not root can still write in a folder's file system.
///
/// # Errors
/// When the system cannot be asked.
pub(super) fn room_in(folder: &Path) -> Result<u64, HypervisorError> {
    let room = statvfs(folder).map_err(|error| file_error("look at", folder, error.into()))?;
    Ok(room.blocks_available().saturating_mul(room.fragment_size()))
}

fn merge(
    domains: Vec<(VmId, Condition)>,
    traces: impl IntoIterator<Item = VmId>,
    folders: BTreeMap<VmId, u64>,
    free: u64,
) -> Observed {
    let of = |wanted: Condition| {
        let these = domains.iter().filter(move |(_, is)| *is == wanted);
        these.map(|(vm, _)| *vm).collect::<BTreeSet<_>>()
    };
    let stalled = of(Condition::Stalled);
    let running: BTreeSet<VmId> = of(Condition::Runs).union(&stalled).copied().collect();
    let remnants = of(Condition::Still)
        .into_iter()
        .chain(traces)
        .chain(folders.keys().copied())
        .filter(|vm| !running.contains(vm))
        .collect();
    Observed {
        running,
        stalled,
        remnants,
        disk_bytes: folders,
        free_disk_bytes: Some(free),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_left_of_a_vm_shows_once() {
        let [running, crashed, wire, folder, stalled] = [1, 2, 3, 4, 5].map(VmId::from_bits);
        let observed = merge(
            vec![
                (running, Condition::Runs),
                (crashed, Condition::Still),
                (stalled, Condition::Stalled),
            ],
            BTreeSet::from([running, crashed, wire]),
            BTreeMap::from([(running, 10), (folder, 20), (stalled, 30)]),
            40,
        );
        assert_eq!(observed.running, BTreeSet::from([running, stalled]));
        assert_eq!(observed.stalled, BTreeSet::from([stalled]));
        assert_eq!(observed.remnants, BTreeSet::from([crashed, wire, folder]));
        assert_eq!(observed.disk_bytes[&stalled], 30);
        assert_eq!(observed.free_disk_bytes, Some(40));
    }
}
