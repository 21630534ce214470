//! The real hypervisor: QEMU through libvirt, by default in this process and without a daemon. VMs
//! outlive the process and are found again.
//!
//! ```text
//! <state>/libvirt/                what the embedded libvirt keeps, made anew where it is missing
//! <state>/vms/<vm>/{disk.qcow2, agent.sock, console.log, idle-states.aml}
//! ```
//!
//! This folder and [`super::HypervisorError`] are the only places that name `virt`. Every verb runs
//! in a task of its own under the VM's lock: a caller that gives up does not stop it halfway, and
//! what is called for the same VM next waits for it.

mod channel;
mod crew;
mod destroy;
mod domains;
mod ends;
mod locks;
mod monitor;
mod observe;
mod open;
mod process;
mod reaper;
mod start;
mod threads;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use remote_docker_api::Egress;

use self::channel::Channels;
use self::ends::Ends;
use self::locks::VmLocks;
use self::threads::Threads;
use super::control_groups::Groups;
use super::disk::Disks;
use super::folder::VmFolder;
use super::qemu_user::QemuUser;
use super::tail;
use super::uids::Uids;
use super::{
    Channel, HostFacts, Hypervisor, HypervisorError, Observed, StartReport, TemplateFiles, VmSpec,
};
use crate::ids::{InstallId, VmId};
use crate::network::Wires;

pub use open::LibvirtConfig;
pub(super) use open::{check_path as check_state_path, choose_runners, kvm_device};

/// QEMU and libvirt on this host.
#[derive(Debug, Clone)]
pub struct Libvirt {
    host: Arc<Host>,
}

/// Everything the verbs share.
#[derive(Debug)]
struct Host {
    install: InstallId,
    facts: HostFacts,
    /// The user that QEMUs run as if they have none of their own.
    user: QemuUser,
    /// A user that clones may run as; all of them have its group.
    usual: QemuUser,
    /// Which user each runs as.
    uids: Uids,
    /// Folder of the VMs' folders.
    vms: PathBuf,
    /// Where libvirt notes process ids, if it runs in this process.
    run: Option<PathBuf>,
    /// Where libvirt keeps what each QEMU said, if it runs in this process.
    logs: Option<PathBuf>,
    threads: Threads,
    wires: Wires,
    /// What holds QEMUs to their bounds, if libvirt runs in this process; else it is libvirt's business.
    groups: Option<Arc<Groups>>,
    disks: Disks,
    locks: VmLocks,
    channels: Channels,
    ends: Arc<Ends>,
}

impl Host {
    fn folder(&self, vm: VmId) -> VmFolder {
        VmFolder::new(&self.vms, vm)
    }

    /// The user that the VM's QEMU runs as.
    fn user_of(&self, spec: &VmSpec) -> Result<QemuUser, HypervisorError> {
        let id = match spec.slot {
            Some(slot) => self.uids.of(slot)?,
            None => None,
        };
        Ok(id.map_or_else(|| self.user.clone(), |id| self.usual.with_id(id)))
    }

    /// What the VM's QEMU said, if libvirt runs in this process and so keeps it where we know.
    fn log(&self, vm: VmId) -> Option<PathBuf> {
        let logs = self.logs.as_ref()?;
        Some(logs.join(format!("{vm}.log")))
    }
}

impl Host {
    /// Looks at or changes control groups, if there are any.
    async fn in_groups<T: Default + Send + 'static>(
        &self,
        doing: &'static str,
        f: impl FnOnce(&Groups) -> Result<T, HypervisorError> + Send + 'static,
    ) -> Result<T, HypervisorError> {
        match self.groups.clone() {
            Some(groups) => blocking(doing, move || f(&groups)).await,
            None => Ok(T::default()),
        }
    }
}

impl Libvirt {
    /// Runs a verb for one VM to its end, whatever becomes of the caller.
    async fn perform<T: Send + 'static>(
        &self,
        doing: &'static str,
        vm: VmId,
        verb: impl Future<Output = Result<T, HypervisorError>> + Send + 'static,
    ) -> Result<T, HypervisorError> {
        let host = Arc::clone(&self.host);
        let task = tokio::spawn(async move {
            let _held = host.locks.hold(vm).await;
            verb.await
        });
        task.await
            .unwrap_or(Err(HypervisorError::WorkerGone { doing }))
    }
}

#[async_trait]
impl Hypervisor for Libvirt {
    fn host(&self) -> &HostFacts {
        &self.host.facts
    }

    async fn start(&self, vm: &VmSpec) -> Result<StartReport, HypervisorError> {
        let (host, spec) = (Arc::clone(&self.host), vm.clone());
        let verb = async move { start::start(&host, &spec).await };
        self.perform("start the VM", vm.id, verb).await
    }

    async fn snapshot(&self, vm: VmId, template: &TemplateFiles) -> Result<(), HypervisorError> {
        let (host, files) = (Arc::clone(&self.host), template.clone());
        let verb = async move { start::snapshot(&host, vm, &files).await };
        self.perform("snapshot the VM", vm, verb).await
    }

    async fn admit(&self, vm: VmId, egress: Egress) -> Result<(), HypervisorError> {
        Ok(self.host.wires.admit(vm, egress).await?)
    }

    async fn channel(&self, vm: VmId) -> Result<Box<dyn Channel>, HypervisorError> {
        let path = self.host.folder(vm).channel();
        let channel = self.host.channels.open(vm, &path).await?;
        Ok(Box::new(channel))
    }

    async fn destroy(&self, vm: VmId) -> Result<(), HypervisorError> {
        let host = Arc::clone(&self.host);
        let verb = async move { destroy::destroy(&host, vm).await };
        self.perform("destroy the VM", vm, verb).await
    }

    async fn list(&self) -> Result<Observed, HypervisorError> {
        observe::list(&self.host).await
    }

    async fn shows(&self, vm: VmId) -> Result<bool, HypervisorError> {
        observe::shows(&self.host, vm).await
    }

    async fn resume(&self, vm: VmId) -> Result<(), HypervisorError> {
        let host = Arc::clone(&self.host);
        let verb = async move { start::resume(&host, vm).await };
        self.perform("let the VM go on", vm, verb).await
    }

    async fn free_disk(&self) -> Result<u64, HypervisorError> {
        observe::free_disk(&self.host).await
    }

    async fn console_tail(&self, vm: VmId, max_bytes: usize) -> String {
        let console = self.host.folder(vm).console();
        let log = self.host.log(vm);
        let end = self.host.ends.of(vm);
        let read = move || {
            let mut said = end.map_or_else(String::new, |end| format!("QEMU {end}\n"));
            said.truncate(max_bytes);
            let rest = tail::of(log.as_deref(), &console, max_bytes - said.len());
            Ok(said + &rest)
        };
        blocking("read the VM's console", read)
            .await
            .unwrap_or_default()
    }
}

/// Says what libvirt was asked for when it failed.
trait LibvirtError<T> {
    /// Makes an error of the hypervisor of one of libvirt; `doing` follows "could not".
    fn doing(self, doing: &'static str) -> Result<T, HypervisorError>;
}

impl<T> LibvirtError<T> for Result<T, virt::error::Error> {
    fn doing(self, doing: &'static str) -> Result<T, HypervisorError> {
        self.map_err(|source| HypervisorError::Libvirt { doing, source })
    }
}

/// Runs calls that wait for a disk off the runtime's own threads.
async fn blocking<T: Send + 'static>(
    doing: &'static str,
    f: impl FnOnce() -> Result<T, HypervisorError> + Send + 'static,
) -> Result<T, HypervisorError> {
    tokio::task::spawn_blocking(f)
        .await
        .unwrap_or(Err(HypervisorError::WorkerGone { doing }))
}
