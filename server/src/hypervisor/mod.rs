//! The hypervisor in the server's words: a few verbs, small enough for a simulator to be honest
//! about. [`Libvirt`] is the real thing, [`sim`] plays races, faults and scale; one suite of tests
//! runs against both.
//!
//! Every verb may be called again after a crash or a lost answer. A verb acts only on what carries
//! this installation's id.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;

use async_trait::async_trait;
use remote_docker_api::Egress;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::ids::{Slot, VmId};

pub use accelerator::AcceleratorChoice;
pub use control_groups::GroupLimits;
pub use domain_xml::kernel_command_line;
pub use error::HypervisorError;
pub use libvirt::{Libvirt, LibvirtConfig};
pub use uids::UidChoice;

mod accelerator;
mod control_groups;
mod disk;
mod domain_xml;
mod error;
mod folder;
mod idle_states;
mod libvirt;
mod qemu_user;
pub mod sim;
mod tail;
pub mod template;
pub mod trial;
mod uids;
mod version;

/// Starts, copies and destroys virtual machines, with their wires, disks and channels.
#[async_trait]
pub trait Hypervisor: Send + Sync + 'static {
    /// What this host can do; found out once, when the hypervisor is opened.
    fn host(&self) -> &HostFacts;

    /// Makes the VM's tap, folder and disk and runs it. Returns when its processors run.
    ///
    /// # Errors
    /// When any part fails; what had been made by then is left for [`Self::destroy`].
    async fn start(&self, vm: &VmSpec) -> Result<StartReport, HypervisorError>;

    /// Stops a VM that was started with [`Source::Template`] for good and writes the state of its
    /// devices beside its memory and disk, so that it can be cloned.
    ///
    /// # Errors
    /// When QEMU cannot write the state; the VM is then to be destroyed.
    async fn snapshot(&self, vm: VmId, template: &TemplateFiles) -> Result<(), HypervisorError>;

    /// Lets the VM reach what `egress` allows. Before the first call it reaches nothing. What was said
    /// last holds until the VM is destroyed, over restarts of the server too.
    ///
    /// # Errors
    /// When the VM has no wire; what holds is then what held before.
    async fn admit(&self, vm: VmId, egress: Egress) -> Result<(), HypervisorError>;

    /// Connects to the agent's channel. One connection at a time; a new one ends the old.
    ///
    /// # Errors
    /// When the VM does not run.
    async fn channel(&self, vm: VmId) -> Result<Box<dyn Channel>, HypervisorError>;

    /// Takes away everything of the VM: domain, process, tap, disk, folder. Also right for a VM that
    /// was never started, that is half made, or that is already gone.
    ///
    /// # Errors
    /// When something is left; call again.
    async fn destroy(&self, vm: VmId) -> Result<(), HypervisorError>;

    /// All VMs of this installation of which anything is on this host.
    ///
    /// # Errors
    /// When the host cannot be asked.
    async fn list(&self) -> Result<Observed, HypervisorError>;

    /// Whether anything of this VM is on this host; costs the same however many others there are.
    ///
    /// # Errors
    /// When the host cannot be asked.
    async fn shows(&self, vm: VmId) -> Result<bool, HypervisorError>;

    /// Lets a VM go on that stands still because the host had no disk space for what it wrote; what
    /// it wrote then is written now. Right for one that runs as well.
    ///
    /// # Errors
    /// When the VM is not there or cannot go on.
    async fn resume(&self, vm: VmId) -> Result<(), HypervisorError>;

    /// How much the VMs can still write to the host's disk, in bytes. Cheap enough for every second.
    ///
    /// # Errors
    /// When the host cannot be asked.
    async fn free_disk(&self) -> Result<u64, HypervisorError>;

    /// How QEMU ended, if it has and that is known, the end of what it said itself, without the host's
    /// folders, and of what the guest wrote to its console; together at most `max_bytes`: for a VM that
    /// failed, to be read before it is destroyed. Empty when nothing is known. Made harmless for
    /// terminals and logs; lines end with `\n`.
    async fn console_tail(&self, vm: VmId, max_bytes: usize) -> String;
}

/// A byte stream to the agent inside a guest.
pub trait Channel: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Channel for T {}

/// What is on the host of our VMs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// VMs whose processors run, or would if the host had disk space for what they write.
    pub running: BTreeSet<VmId>,
    /// Those of `running` that wait for disk space. They go on with [`Hypervisor::resume`].
    pub stalled: BTreeSet<VmId>,
    /// VMs that do not run but of which something is left (a crashed domain, a tap, a folder).
    pub remnants: BTreeSet<VmId>,
    /// How much of the host's disk the folder of each VM takes, in bytes.
    pub disk_bytes: BTreeMap<VmId, u64>,
    /// How much the VMs can still write, in bytes, found out after all the rest; `None` when that is
    /// not known.
    pub free_disk_bytes: Option<u64>,
}

/// How machine instructions of guests are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// By the processor.
    Kvm,
    /// By QEMU's translator, some ten times slower.
    Tcg,
}

/// What a host can do and what runs on it. Templates fit only hosts with equal facts.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HostFacts {
    /// The accelerator in use.
    pub accelerator: Accelerator,
    /// Whether guests may run machines of their own.
    #[serde(default)]
    pub nested: bool,
    /// QEMU's version, such as `10.0.2`.
    pub qemu_version: String,
    /// libvirt's version, such as `11.3.0`.
    pub libvirt_version: String,
    /// Model name of the host's processor.
    pub cpu_model: String,
    /// Digest of how the server puts machines together: the state of a machine's devices fits no
    /// machine with other devices.
    pub layout: String,
}

/// Files of an image that VMs start from. All absolute; none is ever written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFiles {
    /// Root disk, qcow2.
    pub disk: PathBuf,
    /// Linux kernel.
    pub kernel: PathBuf,
    /// Initial RAM disk.
    pub initrd: PathBuf,
}

impl ImageFiles {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> [&PathBuf; 3] {
        [&self.disk, &self.kernel, &self.initrd]
    }
}

/// Files of a template. Written while it is built, never after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateFiles {
    /// Guest memory.
    pub memory: PathBuf,
    /// State of the devices.
    pub device_state: PathBuf,
    /// Root disk, a qcow2 overlay over the image's.
    pub disk: PathBuf,
}

impl TemplateFiles {
    /// The files of the template in `folder`.
    #[must_use]
    pub fn in_folder(folder: &std::path::Path) -> Self {
        Self {
            memory: folder.join("memory"),
            device_state: folder.join("devices"),
            disk: folder.join("disk.qcow2"),
        }
    }

    /// Whether all of them are there.
    #[must_use]
    pub fn are_there(&self) -> bool {
        self.all().iter().all(|path| path.is_file())
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> [&PathBuf; 3] {
        [&self.memory, &self.device_state, &self.disk]
    }
}

/// What a VM begins as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Boots the image; its disk is an overlay of its own.
    Cold,
    /// Boots the image with memory and disk in the template's files, to become that template by
    /// [`Hypervisor::snapshot`].
    Template(TemplateFiles),
    /// Goes on where the template stopped; memory and disk are copied on write.
    Clone(TemplateFiles),
}

/// A VM to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// Its id; names everything on the host.
    pub id: VmId,
    /// What it begins as.
    pub source: Source,
    /// The image.
    pub image: ImageFiles,
    /// Number of virtual processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The guest's address, for the route to its tap; a template in the making has none and gets no
    /// wire that leads anywhere.
    pub address: Option<Ipv4Addr>,
    /// Its slot, which decides what user QEMU runs as; a template in the making has none and runs as the
    /// user that all share.
    pub slot: Option<Slot>,
    /// A fresh VM generation id; the guest's kernel reseeds its random numbers when it changes.
    pub generation_id: u128,
}

/// What a start was made of, for the lease's timings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StartReport {
    /// Steps in order.
    pub steps: Vec<Step>,
}

/// One step and how long it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its name, such as `define`.
    pub name: &'static str,
    /// How long it took.
    pub duration: std::time::Duration,
}
