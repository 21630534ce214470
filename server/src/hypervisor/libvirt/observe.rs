//! What is on the host of our VMs.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Host, blocking, domains};
use crate::hypervisor::{HypervisorError, Observed, folder};
use crate::ids::VmId;

const LIMIT: Duration = Duration::from_secs(30);

/// Looks at domains, wires and folders.
///
/// # Errors
/// When any of them cannot be seen: half a view would make running VMs look gone.
pub(super) async fn list(host: &Host) -> Result<Observed, HypervisorError> {
    let install = host.install;
    let seen = host.threads.call("list the VMs", LIMIT, move |connect| {
        domains::ours(connect, install)?
            .into_iter()
            .map(|(owner, domain)| Ok((owner.vm, domains::runs(&domain)?)))
            .collect::<Result<Vec<_>, HypervisorError>>()
    });
    let wires = async { Ok(host.wires.list().await?) };
    let vms = host.vms.clone();
    let folders = blocking("list the VMs' folders", move || {
        let found = folder::list(&vms)?;
        for vm in &found {
            if let Err(error) = folder::VmFolder::new(&vms, *vm).trim_console() {
                tracing::warn!(%vm, %error, "{vm}: its console could not be trimmed");
            }
        }
        Ok(found)
    });
    let (seen, wires, folders) = tokio::try_join!(seen, wires, folders)?;
    Ok(merge(seen, wires, folders))
}

fn merge(domains: Vec<(VmId, bool)>, wires: BTreeSet<VmId>, folders: BTreeSet<VmId>) -> Observed {
    let (running, still): (Vec<_>, Vec<_>) = domains.into_iter().partition(|(_, runs)| *runs);
    let running: BTreeSet<VmId> = running.into_iter().map(|(vm, _)| vm).collect();
    let remnants = still
        .into_iter()
        .map(|(vm, _)| vm)
        .chain(wires)
        .chain(folders)
        .filter(|vm| !running.contains(vm))
        .collect();
    Observed { running, remnants }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_left_of_a_vm_shows_once() {
        let [running, crashed, wire, folder] = [1, 2, 3, 4].map(VmId::from_bits);
        let observed = merge(
            vec![(running, true), (crashed, false)],
            BTreeSet::from([running, crashed, wire]),
            BTreeSet::from([running, folder]),
        );
        assert_eq!(observed.running, BTreeSet::from([running]));
        assert_eq!(observed.remnants, BTreeSet::from([crashed, wire, folder]));
    }
}
