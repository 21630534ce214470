//! The threads that call libvirt. They live in the VMs' network namespace, because libvirt opens taps
//! and starts QEMU in the namespace of the thread that asked.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use virt::connect::Connect;

use super::LibvirtError;
use super::crew::{About, Crew, spawn};
use crate::hypervisor::HypervisorError;
use crate::ids::VmId;
use crate::network::Namespace;

/// How the threads are set up.
#[derive(Debug)]
pub(super) struct Setup {
    /// The VMs' network namespace.
    pub(super) namespace: Namespace,
    /// What to open.
    pub(super) uri: String,
    /// Whether libvirt runs in this process, and so needs an event loop of it.
    pub(super) embedded: bool,
    /// A file that nobody may open, to be put in the place of `/dev/kvm` for these threads and what
    /// they start. libvirt looks for KVM by itself; where QEMU's user may not use it, it comes to
    /// another result each time and probes QEMU anew for every VM, which takes a minute.
    pub(super) instead_of_kvm: Option<PathBuf>,
}

/// A handle to the threads.
#[derive(Debug)]
pub(super) struct Threads(Crew<Connect>);

impl Threads {
    /// Opens libvirt and starts the threads.
    ///
    /// # Errors
    /// When the namespace cannot be entered or libvirt cannot be opened.
    pub(super) async fn start(setup: Setup) -> Result<Self, HypervisorError> {
        Ok(Self(Crew::start("libvirt", move || prepare(&setup)).await?))
    }

    /// Makes a call about the host as a whole; see [`Crew::call`].
    ///
    /// # Errors
    /// What `f` returns, or that it does not come back.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        doing: &'static str,
        limit: Duration,
        f: impl FnOnce(&Connect) -> Result<T, HypervisorError> + Send + 'static,
    ) -> Result<T, HypervisorError> {
        self.0.call(About::Host, doing, limit, f).await
    }

    /// Makes a call about one VM; see [`Crew::call`].
    ///
    /// # Errors
    /// What `f` returns, or that it does not come back.
    pub(super) async fn call_for<T: Send + 'static>(
        &self,
        vm: VmId,
        doing: &'static str,
        limit: Duration,
        f: impl FnOnce(&Connect) -> Result<T, HypervisorError> + Send + 'static,
    ) -> Result<T, HypervisorError> {
        self.0.call(About::Vm(vm), doing, limit, f).await
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that opens libvirt: the thread entered the namespace before"
)]
fn prepare(setup: &Setup) -> Result<Connect, HypervisorError> {
    // libvirt prints errors by default; here they are returned.
    virt::error::clear_error_callback();
    setup.namespace.enter_current_thread()?;
    if let Some(file) = &setup.instead_of_kvm {
        hide_kvm(file).map_err(|source| HypervisorError::File {
            doing: "hide, from libvirt only,",
            path: "/dev/kvm".into(),
            source,
        })?;
    }
    if setup.embedded {
        virt::event::event_register_default_impl().doing("start its event loop")?;
        spawn("libvirt-events", || {
            loop {
                if let Err(error) = virt::event::event_run_default_impl() {
                    tracing::error!(%error, "libvirt's event loop stumbled");
                    thread::sleep(Duration::from_millis(100));
                }
            }
        })?;
    }
    Connect::open(Some(&setup.uri)).doing("be opened")
}

/// Puts `file` over `/dev/kvm` for the calling thread and those it will start.
fn hide_kvm(file: &std::path::Path) -> std::io::Result<()> {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What the host mounts later shows here as well; what is mounted here does not show there.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    mount(Some(file), "/dev/kvm", none, MsFlags::MS_BIND, none)?;
    Ok(())
}
