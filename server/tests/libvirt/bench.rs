//! A host for tests, with the real libvirt and QEMU.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use remote_dockerd::hypervisor::{ImageFiles, Libvirt, LibvirtConfig, Source, UidChoice, VmSpec};
use remote_dockerd::ids::{InstallId, Slot, VmId};
use remote_dockerd::network::{Namespace, Wires};
use virt::connect::Connect;

/// A host with nothing on it, in a folder and a namespace of its own.
pub(crate) struct Bench {
    pub(crate) state: tempfile::TempDir,
    pub(crate) install: InstallId,
    pub(crate) image: ImageFiles,
    pub(crate) libvirt: Libvirt,
}

impl Bench {
    pub(crate) async fn open() -> Self {
        Self::open_with(UidChoice::Auto).await
    }

    /// With QEMUs that run as these users.
    pub(crate) async fn open_with(uids: UidChoice) -> Self {
        Self::open_changed(|config| config.uids = uids).await
    }

    /// With other settings than the usual ones.
    pub(crate) async fn open_changed(change: impl FnOnce(&mut LibvirtConfig)) -> Self {
        let images = std::env::vars_os()
            .find(|(name, _)| name == "E2E_IMAGES_DIR")
            .map_or_else(
                || PathBuf::from("/var/cache/setup-remote-docker/images"),
                |(_, value)| value.into(),
            );
        let image = images.join("trixie");
        assert!(
            image.join("manifest.json").is_file() && nix::unistd::geteuid().is_root(),
            "NOT RUN: this test takes root and the guest image {}; `make test` provides both",
            image.display()
        );
        let state = tempfile::tempdir().unwrap();
        let open = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(state.path(), open).unwrap();
        let install = InstallId::from_bits(u64::from(std::process::id()) << 20 | 0xbe);
        let namespace = Namespace::open_or_create(install).unwrap();
        let wires = Wires::new(&namespace).unwrap();
        let mut config = LibvirtConfig::new(state.path().to_owned());
        change(&mut config);
        let libvirt = Libvirt::open(config, install, &namespace, wires)
            .await
            .unwrap();
        let image = ImageFiles {
            disk: image.join("disk.qcow2"),
            kernel: image.join("vmlinuz"),
            initrd: image.join("initrd.img"),
        };
        Self {
            state,
            install,
            image,
            libvirt,
        }
    }

    pub(crate) fn spec(&self, number: u8, source: Source) -> VmSpec {
        let address = Ipv4Addr::new(10, 213, 0, number);
        VmSpec {
            id: VmId::from_bits(self.install.bits() + u64::from(number)),
            address: (!matches!(source, Source::Template(_))).then_some(address),
            slot: (!matches!(source, Source::Template(_))).then_some(Slot(u16::from(number) + 1)),
            source,
            image: self.image.clone(),
            vcpus: 1,
            memory_mib: 256,
            generation_id: u128::from(number),
        }
    }

    /// The process of a VM.
    pub(crate) fn pid(&self, vm: VmId) -> String {
        let path = self.processes().join(format!("{vm}.pid"));
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    }

    /// Another connection to the same libvirt, as somebody else would have it.
    #[expect(
        clippy::disallowed_methods,
        reason = "plays somebody who does not go through the server"
    )]
    pub(crate) fn somebody_else(&self) -> Connect {
        let root = self.state.path().join("libvirt");
        Connect::open(Some(&format!("qemu:///embed?root={}", root.display()))).unwrap()
    }

    /// Where libvirt notes the processes of its VMs.
    pub(crate) fn processes(&self) -> PathBuf {
        self.state.path().join("libvirt/run/qemu")
    }

    /// The control groups of its VMs, in all hierarchies.
    pub(crate) fn groups(&self) -> Vec<PathBuf> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let hierarchies = mounts.lines().filter_map(|line| {
            let is_one = line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
            line.split(' ').nth(4).filter(|_| is_one)
        });
        let own = Path::new("remote-dockerd").join(self.install.to_string());
        let own = hierarchies.map(|root| Path::new(root).join(&own));
        let groups = own.flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten());
        let groups = groups.flatten().map(|entry| entry.path());
        groups.filter(|path| path.is_dir()).collect()
    }

    pub(crate) fn vms(&self) -> Vec<String> {
        std::fs::read_dir(self.state.path().join("vms"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // A test that failed may leave VMs.
        for entry in std::fs::read_dir(self.processes())
            .into_iter()
            .flatten()
            .flatten()
        {
            let number = std::fs::read_to_string(entry.path()).unwrap_or_default();
            if entry.file_name().to_string_lossy().starts_with("vm-")
                && entry.path().extension().is_some_and(|name| name == "pid")
                && let Ok(number) = number.trim().parse()
            {
                let pid = nix::unistd::Pid::from_raw(number);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
        for group in self.groups() {
            // Its process may be on its way out.
            for _ in 0..100 {
                if std::fs::remove_dir(&group).is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            let _ = group.parent().map(std::fs::remove_dir);
        }
        let path = Path::new("/run/netns").join(self.install.namespace());
        let _ = nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH);
        let _ = std::fs::remove_file(path);
    }
}
