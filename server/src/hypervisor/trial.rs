//! What can be found out about a host without running a VM on it, a question at a time. The answers are
//! those that opening the hypervisor comes to, by the same code.

use std::ffi::CStr;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::accelerator::{self, AcceleratorChoice};
use super::control_groups;
use super::folder::file_error;
use super::libvirt::{Libvirt, LibvirtConfig, check_state_path, choose_runners, kvm_device};
use super::qemu_user::QemuUser;
use super::uids::{UidChoice, Uids};
use super::version::{self, Version};
use super::{Accelerator, HypervisorError};
use crate::ids::InstallId;
use crate::network::{Namespace, Wires};

/// What is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    /// QEMU's version, such as `10.0.2`.
    pub qemu: String,
    /// libvirt's.
    pub libvirt: String,
    /// The oldest libvirt that this server is made for, if the one there is older.
    pub libvirt_needed: Option<String>,
}

/// A user that QEMU may run as, looked up on this host.
#[derive(Debug)]
pub struct Runner {
    user: QemuUser,
    /// The user whose group it has.
    base: QemuUser,
    /// Why all machines have the same user although each should have its own.
    shared: Option<String>,
}

impl Runner {
    /// Looks the usual user up and gives it the rights that the QEMU of a machine will have.
    ///
    /// # Errors
    /// When there is no such user or group, or the user ids of the configuration are not there.
    pub fn find(uids: UidChoice, choice: AcceleratorChoice) -> Result<Self, HypervisorError> {
        let usual = LibvirtConfig::new(PathBuf::new());
        let user = QemuUser::find(&usual.qemu_user, &usual.qemu_group)?;
        // An accelerator that cannot be had is a finding of its own.
        let accelerator =
            accelerator_of(choice, &user).map_or(Accelerator::Tcg, |(found, _)| found);
        let runners = choose_runners(&user, uids, InstallId::from_bits(0), accelerator)?;
        let why = || "`hypervisor.qemu_uids` is `shared`".to_owned();
        let shared = runners.warning.unwrap_or_else(why);
        Ok(Self {
            shared: (runners.uids == Uids::Shared).then_some(shared),
            user: runners.usual,
            base: user,
        })
    }

    /// Why all machines have the same user, if they have.
    #[must_use]
    pub fn is_shared(&self) -> Option<&str> {
        self.shared.as_deref()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.user.name
    }

    /// How its guests' instructions would be carried out, and why slowly if so.
    ///
    /// # Errors
    /// When KVM is demanded and cannot be had, and for a caller who is not root.
    pub fn accelerator(
        &self,
        choice: AcceleratorChoice,
    ) -> Result<(Accelerator, Option<String>), HypervisorError> {
        accelerator_of(choice, &self.base)
    }

    /// The first folder on the way to `path`, itself included, that the user cannot pass through.
    ///
    /// # Errors
    /// For a caller who is not root.
    pub fn first_closed(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        self.user.first_closed(path)
    }

    /// Whether the user may not read the file.
    ///
    /// # Errors
    /// For a caller who is not root.
    pub fn may_not_read(&self, path: &Path) -> io::Result<bool> {
        self.user.is_denied(path, false)
    }
}

fn accelerator_of(
    choice: AcceleratorChoice,
    user: &QemuUser,
) -> Result<(Accelerator, Option<String>), HypervisorError> {
    let path = Path::new("/proc/cpuinfo");
    let cpuinfo = std::fs::read_to_string(path).map_err(|error| file_error("read", path, error))?;
    let chosen = accelerator::choose(choice, &cpuinfo, kvm_device(user)?, &user.name)?;
    Ok((chosen.accelerator, chosen.warning))
}

/// Why machines cannot run machines of their own where they are to.
#[must_use]
pub fn why_not_nested(accelerator: Accelerator) -> Option<String> {
    accelerator::why_not_nested(accelerator)
}

/// Checks that libvirt can work with a state folder of this path, whether it is there or not.
///
/// # Errors
/// With what is wrong with it.
pub fn check_path(state: &Path) -> Result<(), HypervisorError> {
    check_state_path(state)
}

/// What the kernel of this host cannot hold QEMUs to, and why. Makes a group in each hierarchy and removes it.
#[must_use]
pub fn groups_lacking(state: &Path) -> Vec<String> {
    // A name of this process's own: others may look at the same time.
    let install = InstallId::from_bits(u64::from(std::process::id()));
    control_groups::lacking(install, state)
}

/// Opens libvirt as the server does, but in a folder that is removed again, and lets it look at QEMU, which
/// takes seconds. Once per process.
///
/// # Errors
/// Those of [`Libvirt::open`], but for the accelerator: any will do.
pub async fn find_versions(
    uri: Option<String>,
    namespace: &Namespace,
    wires: Wires,
) -> Result<Versions, HypervisorError> {
    let folder = Scratch::make()?;
    let config = LibvirtConfig {
        uri,
        ..LibvirtConfig::new(folder.0.clone())
    };
    let libvirt = Libvirt::open(config, InstallId::from_bits(0), namespace, wires).await?;
    let facts = super::Hypervisor::host(&libvirt);
    let is_old =
        Version::parse(&facts.libvirt_version).is_some_and(|found| found < version::OLDEST_LIBVIRT);
    Ok(Versions {
        qemu: facts.qemu_version.clone(),
        libvirt: facts.libvirt_version.clone(),
        libvirt_needed: is_old.then(|| version::OLDEST_LIBVIRT.to_string()),
    })
}

/// A folder that QEMU's user can pass through; removed with this.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Self, HypervisorError> {
        // Short, as libvirt's sockets demand, and in memory.
        const TEMPLATE: &CStr = c"/run/rd-doctor-XXXXXX";
        let parent = Path::new("/run");
        let failed = |error: io::Error| file_error("make a folder in", parent, error);
        let path = nix::unistd::mkdtemp(TEMPLATE).map_err(|error| failed(error.into()))?;
        let made = Self(path);
        std::fs::set_permissions(&made.0, Permissions::from_mode(0o711)).map_err(failed)?;
        Ok(made)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed lies in memory and is gone with the next boot.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
