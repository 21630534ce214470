//! Opening libvirt, and finding out beforehand what would make it fail in words that nobody
//! understands.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use virt::error::ErrorNumber;

use super::channel::Channels;
use super::ends::Ends;
use super::locks::VmLocks;
use super::threads::{Setup, Threads};
use super::{Host, Libvirt, LibvirtError, domains, reaper};
use crate::hypervisor::accelerator::{self, AcceleratorChoice, KvmDevice};
use crate::hypervisor::control_groups::{GroupLimits, Groups};
use crate::hypervisor::disk::Disks;
use crate::hypervisor::domain_xml;
use crate::hypervisor::folder::file_error;
use crate::hypervisor::qemu_user::QemuUser;
use crate::hypervisor::uids::{self, UidChoice, Uids};
use crate::hypervisor::version::{self, Version};
use crate::hypervisor::{Accelerator, HostFacts, HypervisorError};
use crate::ids::InstallId;
use crate::network::{Namespace, Wires};

/// QEMU's probe by libvirt takes seconds on a slow host.
const PROBE_LIMIT: Duration = Duration::from_secs(180);

/// Longest path of the state folder in bytes. Unix sockets may have 107, and libvirt's longest one
/// here is `libvirt/lib/qemu/domain-<number>-<vm>/monitor.sock`, with a number that only grows.
const MAX_STATE_PATH: usize = 45;

/// How to use libvirt.
#[derive(Debug, Clone)]
pub struct LibvirtConfig {
    /// The server's state folder, absolute.
    pub state_dir: PathBuf,
    /// Another libvirt than the one in this process, such as `qemu:///system`.
    pub uri: Option<String>,
    /// How guests' instructions are to be carried out.
    pub accelerator: AcceleratorChoice,
    /// Whether guests may run machines of their own.
    pub nested: bool,
    /// The user that QEMU runs as where not each has one of its own.
    pub qemu_user: String,
    /// Its group, to which every QEMU belongs. Its members can read templates.
    pub qemu_group: String,
    /// Which user each QEMU runs as.
    pub uids: UidChoice,
    /// What the kernel holds each QEMU to; `None` for nothing.
    pub group_limits: Option<GroupLimits>,
}

impl LibvirtConfig {
    /// The defaults: libvirt in this process, and the user that its packages make.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            uri: None,
            accelerator: AcceleratorChoice::Auto,
            nested: false,
            qemu_user: "libvirt-qemu".to_owned(),
            qemu_group: "libvirt-qemu".to_owned(),
            uids: UidChoice::Auto,
            group_limits: None,
        }
    }
}

impl Libvirt {
    /// Opens libvirt on threads that entered `namespace` and finds out what the host can do. VMs that
    /// an earlier server left running are found again. Once per process, unless `uri` says that
    /// libvirt runs elsewhere.
    ///
    /// # Errors
    /// When the host is not fit for it; the message says what to do.
    pub async fn open(
        config: LibvirtConfig,
        install: InstallId,
        namespace: &Namespace,
        wires: Wires,
    ) -> Result<Self, HypervisorError> {
        let LibvirtConfig {
            state_dir: state,
            uri,
            accelerator,
            nested,
            qemu_user,
            qemu_group,
            uids,
            group_limits,
        } = config;
        if !nix::unistd::geteuid().is_root() {
            return Err(HypervisorError::Unsuitable(
                "running VMs takes root: start the server as root, for example with sudo"
                    .to_owned(),
            ));
        }
        let user = QemuUser::find(&qemu_user, &qemu_group)?;
        check_path(&state)?;
        let vms = state.join("vms");
        make_folder(&vms, 0o711)?;

        let cpuinfo = read("/proc/cpuinfo")?;
        let device = kvm_device(&user)?;
        let chosen = accelerator::choose(accelerator, &cpuinfo, device, &user.name)?;
        if let Some(warning) = &chosen.warning {
            tracing::warn!("{warning}");
        }
        if nested && let Some(warning) = accelerator::why_not_nested(chosen.accelerator) {
            tracing::warn!("{warning}");
        }
        let Runners {
            uids,
            usual,
            warning,
        } = choose_runners(&user, uids, install, chosen.accelerator)?;
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
        check_way(&usual, &vms)?;
        let embedded = uri.is_none();
        let mut setup = Setup {
            namespace: namespace.clone(),
            uri: uri.unwrap_or_default(),
            embedded,
            instead_of_kvm: None,
        };
        let (mut run, mut logs, mut given) = (None, None, Vec::new());
        let ends = Arc::<Ends>::default();
        if embedded {
            let root = prepare_embedded(&state, &user, &usual, &ends)?;
            setup.uri = embedded_uri(&root);
            if chosen.accelerator == Accelerator::Tcg && device != KvmDevice::Missing {
                setup.instead_of_kvm = Some(make_closed_file(&root.join("no-kvm"))?);
            }
            run = Some(root.join("run/qemu"));
            given = GIVEN_TO_QEMU.map(|folder| root.join(folder)).to_vec();
            logs = Some(root.join("log/qemu"));
        }
        let threads = Threads::start(setup).await.map_err(explain)?;
        let (libvirt_version, qemu_version) = threads
            .call("ask for its version", PROBE_LIMIT, |connect| {
                let libvirt = connect.lib_version().doing("ask for its version")?;
                let qemu = connect.hyp_version().doing("find QEMU")?;
                Ok((Version(libvirt), Version(qemu)))
            })
            .await
            .map_err(explain)?;
        version::check_qemu(qemu_version)?;
        for folder in given.iter().filter(|folder| folder.is_dir()) {
            take_from_qemu(folder, &usual)?;
        }
        let groups = embedded.then(|| Arc::new(Groups::open(install, group_limits, &vms)));
        let facts = HostFacts {
            accelerator: chosen.accelerator,
            nested,
            qemu_version: qemu_version.to_string(),
            libvirt_version: libvirt_version.to_string(),
            cpu_model: accelerator::cpu_model(&cpuinfo),
            layout: domain_xml::layout(
                chosen.accelerator,
                nested,
                accelerator::seen_by_guests(chosen.accelerator, &cpuinfo),
            ),
        };
        tracing::info!(?facts, "QEMU {qemu_version}, libvirt {libvirt_version}");
        Ok(Self {
            host: Arc::new(Host {
                install,
                facts,
                user,
                usual,
                uids,
                vms,
                run,
                logs,
                threads,
                wires,
                groups,
                disks: Disks::default(),
                locks: VmLocks::default(),
                channels: Channels::default(),
                ends,
            }),
        })
    }
}

/// Who QEMUs run as.
pub(in crate::hypervisor) struct Runners {
    pub(in crate::hypervisor) uids: Uids,
    /// One of them, to ask what they may do: their groups are the same.
    pub(in crate::hypervisor) usual: QemuUser,
    /// What is to be said about it.
    pub(in crate::hypervisor) warning: Option<String>,
}

/// Decides who QEMUs run as on this host. `user` is the one whose groups they share.
///
/// # Errors
/// When the ids that are asked for are not there.
pub(in crate::hypervisor) fn choose_runners(
    user: &QemuUser,
    choice: UidChoice,
    install: InstallId,
    accelerator: Accelerator,
) -> Result<Runners, HypervisorError> {
    let map = read("/proc/self/uid_map")?;
    let (uids, warning) = uids::choose(choice, install, &map)?;
    let shared = |warning| Runners {
        uids: Uids::Shared,
        usual: user.clone(),
        warning,
    };
    let Some(id) = uids.any() else {
        return Ok(shared(warning));
    };
    for group in user.groups() {
        let usual = user.alone(id, group);
        if accelerator == Accelerator::Tcg || kvm_device(&usual)? == KvmDevice::Usable {
            return Ok(Runners {
                uids,
                usual,
                warning,
            });
        }
    }
    Ok(shared(Some(format!(
        "only the user {} and none of its groups may open /dev/kvm, so all QEMUs run as that user, and a \
         guest that breaks out of its own reaches the others: give it to a group of this user, for example \
         with `chgrp kvm /dev/kvm && chmod g+rw /dev/kvm`",
        user.name
    ))))
}

/// Makes the folder of the embedded libvirt and its configuration.
fn prepare_embedded(
    state: &Path,
    user: &QemuUser,
    usual: &QemuUser,
    ends: &Arc<Ends>,
) -> Result<PathBuf, HypervisorError> {
    static OPENED: AtomicBool = AtomicBool::new(false);
    if OPENED.swap(true, Ordering::SeqCst) {
        return Err(HypervisorError::Unsuitable(
            "libvirt can be embedded once per process".to_owned(),
        ));
    }
    let root = state.join("libvirt");
    let etc = root.join("etc");
    make_folder(&root, 0o711)?;
    make_folder(&etc, 0o700)?;
    // QEMUs may pass through to their files in it, and nobody else: libvirt's own folders below are open.
    usual
        .let_group_in(&root, 0o710)
        .map_err(|error| file_error("protect", &root, error))?;
    let path = etc.join("qemu.conf");
    fs::write(&path, qemu_conf(&user.name, &user.group))
        .map_err(|error| file_error("write", &path, error))?;
    reaper::start(Arc::clone(ends)).map_err(|error| {
        HypervisorError::Unsuitable(format!("detached processes cannot be adopted: {error}"))
    })?;
    Ok(root)
}

/// Settings of the embedded libvirt. Measured on two cores without hardware virtualization, the
/// capability filter takes 150 of 310 ms off each start.
fn qemu_conf(user: &str, group: &str) -> String {
    format!(
        r#"# Written anew by remote-dockerd at every start.
user = "{user}"
group = "{group}"
# The server sets owners itself; libvirt would change those of the image as well.
dynamic_ownership = 0
remember_owner = 0
# Each QEMU is held by a user of its own, its seccomp filter and its network namespace. Profiles of AppArmor and
# SELinux would have to be taught the memory files of templates first.
security_driver = "none"
seccomp_sandbox = 1
# A core dump would hold what QEMU knows of the guest.
max_core = 0
# There is no virtlogd.
stdio_handler = "file"
# A /dev of its own for each VM takes several processes to make, and cannot be made at all where
# /dev/kvm is hidden.
namespaces = []
# The server makes control groups itself.
cgroup_controllers = []
# Else every feature of the processor is asked for by itself, some four hundred questions a start.
capability_filters = [ "cpu-unavailable-features" ]
"#
    )
}

fn embedded_uri(root: &Path) -> String {
    let mut uri = "qemu:///embed?root=".to_owned();
    for byte in root.as_os_str().as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                uri.push(char::from(*byte));
            }
            _ => {
                let _ = write!(uri, "%{byte:02X}");
            }
        }
    }
    uri
}

/// Adds what to do to the errors that have a known reason.
fn explain(error: HypervisorError) -> HypervisorError {
    let HypervisorError::Libvirt { doing, source } = &error else {
        return error;
    };
    let hint = if domains::is(source, ErrorNumber::NoConnect)
        || domains::is(source, ErrorNumber::NoSupport)
        || source.message().contains("module")
    {
        "install the package libvirt-daemon-driver-qemu"
    } else if *doing == "find QEMU" {
        "install the package qemu-system-x86"
    } else {
        return error;
    };
    let message = source.message();
    HypervisorError::Unsuitable(format!("libvirt could not {doing} ({message}): {hint}"))
}

/// Checks that libvirt can work with a state folder of this path.
///
/// # Errors
/// With what is wrong with it.
pub(in crate::hypervisor) fn check_path(state: &Path) -> Result<(), HypervisorError> {
    let length = state.as_os_str().len();
    let fault = if !state.is_absolute() {
        "must be absolute".to_owned()
    } else if state
        .to_str()
        .is_none_or(|text| text.contains(char::is_control))
    {
        "must be plain UTF-8 text".to_owned()
    } else if length > MAX_STATE_PATH {
        format!(
            "has {length} bytes, {MAX_STATE_PATH} is the most: libvirt's sockets below it would \
             have longer names than the system allows"
        )
    } else {
        return Ok(());
    };
    let path = state.display();
    Err(HypervisorError::Unsuitable(format!(
        "the path of the state folder {path} {fault}; choose another one with `--state-dir`"
    )))
}

/// Checks that QEMU's user can get to its files.
fn check_way(user: &QemuUser, vms: &Path) -> Result<(), HypervisorError> {
    let closed = user
        .first_closed(vms)
        .map_err(|error| file_error("walk as QEMU's user to", vms, error))?;
    let Some(closed) = closed else { return Ok(()) };
    let (group, path) = (&user.group, closed.display());
    Err(HypervisorError::Unsuitable(format!(
        "QEMU, which runs in the group {group}, cannot pass through {path}: allow it with `setfacl -m \
         g:{group}:x {path}` or `chmod o+x {path}`, or choose another folder with `--state-dir`"
    )))
}

/// What `/dev/kvm` is to the user.
///
/// # Errors
/// When this process may not take on the user's rights, which takes root.
pub(in crate::hypervisor) fn kvm_device(user: &QemuUser) -> Result<KvmDevice, HypervisorError> {
    let path = Path::new("/dev/kvm");
    if !path.exists() {
        return Ok(KvmDevice::Missing);
    }
    let denied = user.is_denied(path, true);
    Ok(if denied.map_err(|error| file_error("try", path, error))? {
        KvmDevice::Denied
    } else {
        KvmDevice::Usable
    })
}

/// Makes a folder of that mode, or gives an existing one that mode.
fn make_folder(path: &Path, mode: u32) -> Result<(), HypervisorError> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(|error| file_error("create", path, error))
}

/// Folders of libvirt that it gives to QEMU's user when it is opened. In the first are its notes on running
/// VMs, which root reads and believes at the next start; in the second the folder of each VM.
const GIVEN_TO_QEMU: [&str; 3] = ["run/qemu", "lib/qemu", "run/qemu/dbus"];

/// Makes a folder of libvirt's root's alone: whoever broke out of a VM could replace what is in it. QEMUs may
/// pass through, to the folders in it that are theirs; nobody else may.
fn take_from_qemu(path: &Path, usual: &QemuUser) -> Result<(), HypervisorError> {
    usual
        .let_group_in(path, 0o710)
        .map_err(|error| file_error("protect", path, error))
}

fn make_closed_file(path: &Path) -> Result<PathBuf, HypervisorError> {
    fs::write(path, b"")
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o000)))
        .map_err(|error| file_error("create", path, error))?;
    Ok(path.to_owned())
}

fn read(path: &str) -> Result<String, HypervisorError> {
    fs::read_to_string(path).map_err(|error: io::Error| file_error("read", Path::new(path), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_becomes_part_of_an_address() {
        assert_eq!(
            embedded_uri(Path::new("/var/lib/remote-docker/libvirt")),
            "qemu:///embed?root=/var/lib/remote-docker/libvirt"
        );
        assert_eq!(
            embedded_uri(Path::new("/a b/ü&root=/#?")),
            "qemu:///embed?root=/a%20b/%C3%BC%26root%3D/%23%3F"
        );
    }

    #[test]
    fn paths_that_libvirt_cannot_use_are_refused_with_a_reason() {
        let refused = |path: &str| check_path(Path::new(path)).unwrap_err().to_string();
        check_path(Path::new("/var/lib/remote-dockerd")).unwrap();
        assert!(refused("state").contains("absolute"));
        assert!(refused("/a\nb").contains("plain"));
        let long = format!("/{}", "x".repeat(MAX_STATE_PATH));
        assert!(
            refused(&long).contains("46 bytes, 45 is the most"),
            "{}",
            refused(&long)
        );
        // The longest socket below the longest path fits what the system allows.
        let socket = "/libvirt/lib/qemu/domain-9999999-vm-0123456789abc/monitor.sock";
        assert!(MAX_STATE_PATH + socket.len() <= 107);
    }

    #[test]
    fn the_settings_of_libvirt() {
        insta::assert_snapshot!(qemu_conf("libvirt-qemu", "libvirt-qemu"));
    }
}
