//! Taking a VM away, guided by what the host shows.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use virt::connect::Connect;
use virt::error::ErrorNumber;

use super::domains::{self, Found};
use super::process::Qemu;
use super::{Host, LibvirtError, blocking};
use crate::hypervisor::HypervisorError;
use crate::hypervisor::domain_xml::Owner;
use crate::hypervisor::folder::file_error;
use crate::ids::VmId;

const LIMIT: Duration = Duration::from_secs(60);
/// How long a killed process may take to give its memory back.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// How long libvirt may take to notice.
const FORGET_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// Takes away domain, process, wire and folder.
///
/// # Errors
/// When something may be left.
pub(super) async fn destroy(host: &Host, vm: VmId) -> Result<(), HypervisorError> {
    end(host, vm).await?;
    let folder = host.folder(vm);
    // libvirt would keep what QEMU said for ever, a file for each VM there ever was.
    let log = host.log(vm);
    // And what it was just writing when a server before this one was killed.
    let draft = host
        .run
        .as_ref()
        .map(|run| run.join(format!("{vm}.xml.new")));
    let wire = async { Ok(host.wires.detach(vm).await?) };
    let group = host.in_groups("remove the VM's control groups", move |groups| {
        groups.remove(vm)
    });
    let files = blocking("remove the VM's files", move || {
        folder.remove()?;
        for path in log.iter().chain(&draft) {
            remove_file(path)?;
        }
        Ok(())
    });
    tokio::try_join!(wire, group, files)?;
    host.ends.forget(vm);
    Ok(())
}

fn remove_file(path: &Path) -> Result<(), HypervisorError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(file_error("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Ends the domain and its process, and nothing else.
///
/// # Errors
/// When it may still run.
pub(super) async fn end(host: &Host, vm: VmId) -> Result<(), HypervisorError> {
    host.channels.close(vm);
    let run = host.run.clone();
    let owner = Owner {
        install: host.install,
        vm,
    };
    host.threads
        .call_for(vm, "destroy the VM", LIMIT, move |connect| {
            end_domain(connect, run.as_deref(), owner)
        })
        .await
}

fn end_domain(connect: &Connect, run: Option<&Path>, owner: Owner) -> Result<(), HypervisorError> {
    let vm = owner.vm;
    let found = domains::find(connect, owner)?;
    if matches!(found, Found::Foreign) {
        tracing::warn!(%vm, "{vm}: a domain of that name belongs to somebody else; left alone");
        return Ok(());
    }
    // libvirt would ask QEMU to end itself and look again after 0.2 s; a killed one is gone at once.
    // Also when libvirt knows no such domain: it may have forgotten one that still runs.
    if let Some(run) = run {
        kill(run, vm)?;
    }
    let Found::Ours(domain) = found else {
        return Ok(());
    };
    match domain.destroy() {
        Ok(()) => {}
        // It has noticed by itself, or is just about to.
        Err(error)
            if domains::is(&error, ErrorNumber::NoDomain)
                || domains::is(&error, ErrorNumber::OperationInvalid) => {}
        Err(error) => return Err(error).doing("destroy the VM"),
    }
    let started = Instant::now();
    while !matches!(domains::find(connect, owner)?, Found::Nothing) {
        if started.elapsed() > FORGET_LIMIT {
            return Err(HypervisorError::Timeout {
                doing: "destroy the VM in libvirt",
                limit_s: FORGET_LIMIT.as_secs(),
            });
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn kill(run: &Path, vm: VmId) -> Result<(), HypervisorError> {
    let failed = |source| HypervisorError::File {
        doing: "end the process noted in",
        path: PathBuf::from(run).join(format!("{vm}.pid")),
        source,
    };
    let Some(qemu) = Qemu::find(run, vm).map_err(failed)? else {
        return Ok(());
    };
    if qemu.kill(KILL_LIMIT).map_err(failed)? {
        return Ok(());
    }
    Err(HypervisorError::Timeout {
        doing: "kill the VM's process",
        limit_s: KILL_LIMIT.as_secs(),
    })
}
