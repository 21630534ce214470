//! A control group for each machine's QEMU, in which the kernel holds it to its memory, its threads and its
//! time on the processors, whatever has become of it inside.
//!
//! ```text
//! <hierarchy>/remote-dockerd/<installation>/<vm>
//! ```
//!
//! libvirt is told to make none: it would take several programs and a service for each start. The groups are
//! right below the first one of each hierarchy, so that a server finds those of an earlier one wherever it
//! was started itself. Nothing is bounded where a controller cannot be had; machines run all the same.

mod bounds;
mod mounts;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::Pid;

use self::bounds::{Bounds, weight};
use self::mounts::{Controller, Hierarchy, Version};
use super::{Accelerator, HypervisorError, VmSpec};
use crate::hypervisor::folder::file_error;
use crate::ids::{InstallId, VmId};

/// The group of all installations.
const TOP: &str = "remote-dockerd";
/// Another server that goes away may take the groups above ours with it while we make ours.
const TRIES: usize = 10;

/// How the bounds of machines are made up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupLimits {
    /// What QEMU may take besides the guest's memory, in MiB; `None` for what the accelerator needs.
    pub memory_overhead_mib: Option<u32>,
    /// Threads that a QEMU may have.
    pub max_tasks: u32,
    /// Time on the processors besides that of the virtual ones, in hundredths of one.
    pub extra_cpu_percent: u32,
}

/// The groups of one installation's machines.
#[derive(Debug)]
pub(super) struct Groups {
    install: InstallId,
    /// `None` where groups are only to be found and removed.
    limits: Option<GroupLimits>,
    hierarchies: Vec<Hierarchy>,
    files_are_memory: bool,
    /// Held while groups are made or removed: the last machine takes the groups above with it.
    making: Mutex<()>,
    told: AtomicBool,
}

impl Groups {
    /// Finds out what can be bounded on this host, and says what cannot. `files` is the folder of the
    /// machines' disks.
    pub(super) fn open(install: InstallId, limits: Option<GroupLimits>, files: &Path) -> Self {
        let found = find();
        let mut groups = Self::within(install, limits, found, files_are_memory(files));
        if groups.limits.is_some() {
            let lacking = groups.try_out();
            if !lacking.is_empty() {
                tracing::warn!(
                    "the kernel does not hold every QEMU to its bounds: {}; `hypervisor.control_groups.enabled = \
                     false` says that this is meant",
                    lacking.join("; ")
                );
            }
        }
        groups
    }

    fn within(
        install: InstallId,
        limits: Option<GroupLimits>,
        hierarchies: Vec<Hierarchy>,
        files_are_memory: bool,
    ) -> Self {
        Self {
            install,
            limits,
            hierarchies,
            files_are_memory,
            making: Mutex::default(),
            told: AtomicBool::new(false),
        }
    }

    /// Makes a group and bounds it as that of a machine would be, and gives up what cannot be had. Answers what
    /// that is, and why.
    fn try_out(&mut self) -> Vec<String> {
        let bounds = Bounds::anything();
        let mut lacking = Vec::new();
        for hierarchy in std::mem::take(&mut self.hierarchies) {
            let works = |controller: &Controller| {
                // Each by itself, so that one that cannot be had costs no other.
                let alone = Hierarchy {
                    controllers: [*controller].into(),
                    ..hierarchy.clone()
                };
                let done = self.bound(&alone, "trial", &bounds).map(drop);
                let removed = self.remove_group(&alone, "trial");
                let done = done.and(removed);
                let told = done.map_err(|error| format!("{}: {error}", controller.name()));
                told.map_err(|why| lacking.push(why)).is_ok()
            };
            let all = hierarchy.controllers.iter().copied();
            let controllers: BTreeSet<_> = all.filter(works).collect();
            if !controllers.is_empty() {
                self.hierarchies.push(Hierarchy {
                    controllers,
                    ..hierarchy
                });
            }
        }
        self.remove_empty();
        let has = |controller: &Controller| {
            let mut all = self.hierarchies.iter();
            all.any(|hierarchy| hierarchy.controllers.contains(controller))
        };
        let missing = Controller::ALL.into_iter().filter(|one| !has(one));
        let missing: Vec<_> = missing.map(Controller::name).collect();
        if lacking.is_empty() && !missing.is_empty() {
            lacking.push(format!(
                "the kernel has no control groups with {}",
                missing.join(", ")
            ));
        }
        if self.files_are_memory {
            lacking.push(
                "memory: the state folder is in memory (tmpfs), so that machines' disks would count as theirs"
                    .to_owned(),
            );
        }
        lacking
    }

    /// Puts a machine's process into a group of its own. That it cannot be done is told once, until it can.
    pub(super) fn place(&self, spec: &VmSpec, accelerator: Accelerator, qemu: Pid) {
        let Some(limits) = &self.limits else { return };
        let mut bounds = Bounds::of(spec, accelerator, limits);
        if self.files_are_memory {
            bounds = bounds.without_memory();
        }
        let name = spec.id.to_string();
        let place = |hierarchy| {
            let group = self.make(hierarchy, &name)?;
            // One bound that cannot be had costs no other.
            let bounded = Self::settle(hierarchy, &group, &bounds);
            write(&group.join("cgroup.procs"), &qemu.to_string()).and(bounded)
        };
        // All of them, whatever becomes of one.
        let placed: Vec<io::Result<()>> = self.hierarchies.iter().map(place).collect();
        match placed.into_iter().find_map(Result::err) {
            None => self.told.store(false, Ordering::Relaxed),
            Some(error) => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    let vm = spec.id;
                    tracing::warn!(%vm, %error, "{vm}: the kernel does not hold its QEMU to its bounds");
                }
            }
        }
    }

    /// The machines that have a group.
    ///
    /// # Errors
    /// When they cannot be seen.
    pub(super) fn list(&self) -> Result<BTreeSet<VmId>, HypervisorError> {
        let mut found = BTreeSet::new();
        for hierarchy in &self.hierarchies {
            let folder = self.folder(hierarchy);
            let failed = |error| file_error("read", &folder, error);
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            for entry in entries {
                let name = entry.map_err(failed)?.file_name();
                found.extend(name.to_str().and_then(|name| name.parse::<VmId>().ok()));
            }
        }
        Ok(found)
    }

    /// Whether a machine has a group.
    ///
    /// # Errors
    /// When it cannot be seen.
    pub(super) fn has(&self, vm: VmId) -> Result<bool, HypervisorError> {
        for hierarchy in &self.hierarchies {
            let path = self.folder(hierarchy).join(vm.to_string());
            let there = path.try_exists();
            if there.map_err(|error| file_error("look at", &path, error))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes the groups of a machine whose process has ended, if there are any.
    ///
    /// # Errors
    /// When one is left: a process is in it.
    pub(super) fn remove(&self, vm: VmId) -> Result<(), HypervisorError> {
        let name = vm.to_string();
        for hierarchy in &self.hierarchies {
            let path = self.folder(hierarchy).join(&name);
            self.remove_group(hierarchy, &name)
                .map_err(|error| file_error("remove", &path, error))?;
        }
        self.remove_empty();
        Ok(())
    }

    /// The group of this installation.
    fn folder(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.root.join(TOP).join(self.install.to_string())
    }

    /// Makes a group with these bounds.
    fn bound(&self, hierarchy: &Hierarchy, name: &str, bounds: &Bounds) -> io::Result<PathBuf> {
        let group = self.make(hierarchy, name)?;
        Self::settle(hierarchy, &group, bounds).map(|()| group)
    }

    /// Writes all bounds into a group, and fails with the first that it does not take.
    fn settle(hierarchy: &Hierarchy, group: &Path, bounds: &Bounds) -> io::Result<()> {
        let mut settled = Ok(());
        for controller in &hierarchy.controllers {
            for (file, value) in bounds.settings(hierarchy.version, *controller) {
                let written = write(&group.join(file), &value);
                settled = settled.and(written);
            }
            let swap = bounds.settings_with_swap(hierarchy.version, *controller);
            if let Some((file, value)) = swap {
                let file = group.join(file);
                // A kernel that does not count what is swapped out has none.
                if file.exists() {
                    settled = settled.and(write(&file, &value));
                }
            }
        }
        settled
    }

    fn make(&self, hierarchy: &Hierarchy, name: &str) -> io::Result<PathBuf> {
        let _held = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let group = self.folder(hierarchy).join(name);
        let mut tries = 0;
        loop {
            tries += 1;
            match self.make_all(hierarchy, &group) {
                Err(error) if error.kind() == ErrorKind::NotFound && tries < TRIES => {}
                done => return done.map(|()| group),
            }
        }
    }

    fn make_all(&self, hierarchy: &Hierarchy, group: &Path) -> io::Result<()> {
        let above = [hierarchy.root.join(TOP), self.folder(hierarchy)];
        if hierarchy.version == Version::Two {
            switch_on(hierarchy, &hierarchy.root)?;
        }
        for folder in above {
            make_folder(&folder)?;
            // All machines together compete with the rest of the host, and would have the weight of one process.
            if hierarchy.controllers.contains(&Controller::Cpu) {
                let (file, value) = weight(hierarchy.version, processors());
                write(&folder.join(file), &value)?;
            }
            if hierarchy.version == Version::Two {
                switch_on(hierarchy, &folder)?;
            }
        }
        make_folder(group).map(drop)
    }

    fn remove_group(&self, hierarchy: &Hierarchy, name: &str) -> io::Result<()> {
        let _held = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        match fs::remove_dir(self.folder(hierarchy).join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the groups above those of machines when there are none.
    fn remove_empty(&self) {
        let _held = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        for hierarchy in &self.hierarchies {
            // The kernel removes none that has others in it.
            if fs::remove_dir(self.folder(hierarchy)).is_ok() {
                let _ = fs::remove_dir(hierarchy.root.join(TOP));
            }
        }
    }
}

/// What cannot be bounded on this host, and why; nothing when all can.
pub(super) fn lacking(install: InstallId, files: &Path) -> Vec<String> {
    Groups::within(install, None, find(), files_are_memory(files)).try_out()
}

fn find() -> Vec<Hierarchy> {
    // Without the list there are none.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let offered =
        |root: &Path| fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    mounts::hierarchies(&mounts, offered)
}

/// A folder that is not there yet will be where the nearest one above it is.
fn files_are_memory(files: &Path) -> bool {
    let seen = files.ancestors().find_map(|folder| statfs(folder).ok());
    seen.is_some_and(|seen| seen.filesystem_type() == TMPFS_MAGIC)
}

fn processors() -> u32 {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Lets the children of a group be bounded, as version 2 asks for.
fn switch_on(hierarchy: &Hierarchy, folder: &Path) -> io::Result<()> {
    let words: Vec<String> = hierarchy
        .controllers
        .iter()
        .map(|controller| format!("+{}", controller.name()))
        .collect();
    write(&folder.join("cgroup.subtree_control"), &words.join(" "))
}

/// Makes a group unless it is there; tells whether it is new.
fn make_folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(named(path, &error)),
    }
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::write(path, value).map_err(|error| named(path, &error))
}

/// An error of the system with the file that it is about.
fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
