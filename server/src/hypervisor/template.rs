//! Templates: stopped machines whose Docker daemon was already answering, kept as files to be cloned.
//!
//! ```text
//! <state>/templates/<digest of the key>/<generation>/{memory, devices, disk.qcow2, template.json}
//! ```
//!
//! A template that turned out to be bad gets a file `unfit` beside these: running clones still need its
//! name, new ones pass it over. That its files are what was written is found out by their digests when a
//! server starts, and by their times before each clone.
//!
//! A folder is called `<generation>.building` until everything in it is complete, and is never
//! changed after it got its name: clones map its memory and read through to its disk.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use guest_protocol::{Fixed, Site};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::domain_xml::{DomainPlan, domain_xml};
use super::folder::VmFolder;
use super::{HostFacts, Hypervisor, HypervisorError, ImageFiles, Source, TemplateFiles, VmSpec};
use crate::failpoint;
use crate::guest::{GuestError, Link};
use crate::ids::{InstallId, VmId};
use crate::seen::{NotSeen, Seen};

mod content;

/// How long an image may take from power on to a Docker daemon that answers. Ten times what it
/// takes where there is no hardware virtualization.
pub const BOOT_LIMIT: Duration = Duration::from_secs(150);
const QUIESCE_LIMIT: Duration = Duration::from_secs(30);
const DESCRIPTION: &str = "template.json";
const BUILDING: &str = "building";
/// A file with this name, beside the others, says that a template is not to be used any more, and why.
const UNFIT: &str = "unfit";

/// Everything a template depends on. A clone runs only where all of it is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateKey {
    /// Digest of the image.
    pub image_digest: String,
    /// Where the image's disk is: the template's own is an overlay that names it.
    pub image_disk: PathBuf,
    /// Number of virtual processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Accelerator, CPU model, versions of QEMU and libvirt.
    pub host: HostFacts,
    /// Version of the agent's protocol.
    pub protocol: u32,
    /// Digest of the machine's description: devices and their places, processor flags, the kernel's
    /// command line. A newer server may describe its machines otherwise, and state that was written
    /// by one machine loads into an equal one only.
    pub machine: String,
    /// Digest of what the site wants of the Docker daemon and can be told only as it starts; empty when
    /// that is nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub site: String,
}

impl TemplateKey {
    /// The key of what this program would build on `host`.
    #[must_use]
    pub fn new(
        image_digest: String,
        image_disk: PathBuf,
        vcpus: u32,
        memory_mib: u32,
        host: HostFacts,
        site: &Fixed,
    ) -> Self {
        Self {
            image_digest,
            image_disk,
            machine: machine(&host, vcpus, memory_mib),
            vcpus,
            memory_mib,
            host,
            protocol: guest_protocol::VERSION,
            site: digest_of(site),
        }
    }

    fn digest(&self) -> Result<String, TemplateError> {
        let text = serde_json::to_vec(self).map_err(TemplateError::Description)?;
        Ok(short_digest(&text))
    }
}

fn digest_of(site: &Fixed) -> String {
    if site.is_default() {
        return String::new();
    }
    // Text, numbers and lists: there is nothing in it that could not be written.
    short_digest(&serde_json::to_vec(site).unwrap_or_default())
}

/// Digest of the description of a machine whose names and files are always the same.
fn machine(host: &HostFacts, vcpus: u32, memory_mib: u32) -> String {
    let nowhere = Path::new("/nowhere");
    let id = VmId::from_bits(0);
    let spec = VmSpec {
        id,
        source: Source::Template(TemplateFiles::in_folder(nowhere)),
        image: ImageFiles {
            disk: nowhere.join("disk"),
            kernel: nowhere.join("kernel"),
            initrd: nowhere.join("initrd"),
        },
        vcpus,
        memory_mib,
        address: None,
        slot: None,
        generation_id: 0,
    };
    let text = domain_xml(&DomainPlan {
        install: InstallId::from_bits(0),
        accelerator: host.accelerator,
        nested: host.nested,
        spec: &spec,
        folder: &VmFolder::new(nowhere, id),
        user: (0, 0),
    });
    short_digest(text.as_bytes())
}

fn short_digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))[..16].to_owned()
}

/// As what a template is built.
#[derive(Debug, Clone, Copy)]
pub struct BuildOrder<'a> {
    /// The machine that becomes it.
    pub vm: VmId,
    /// Its generation id.
    pub generation_id: u128,
    /// What the site wants of its Docker daemon.
    pub site: &'a Site,
}

/// What stands in `template.json`; written last.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    key: TemplateKey,
    memory_bytes: u64,
    devices_bytes: u64,
    /// Of the three files, see [`content::digest`].
    digest: String,
}

/// A complete template whose files were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Its files.
    pub files: TemplateFiles,
    /// These very files.
    pub seen: Seen,
}

/// A template could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The hypervisor failed.
    #[error("could not build the template")]
    Hypervisor(#[from] HypervisorError),
    /// The guest failed.
    #[error("the image did not boot into a template")]
    Guest(#[from] GuestError),
    /// A file could not be read or written.
    #[error("could not {doing} {path}", path = path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A file is not the one that was checked.
    #[error("the template cannot be used")]
    NotSeen(#[from] NotSeen),
    /// The description could not be written as JSON.
    #[error("could not describe the template")]
    Description(#[source] serde_json::Error),
}

/// The templates of one server, on disk.
#[derive(Debug, Clone)]
pub struct Templates {
    root: PathBuf,
}

impl Templates {
    /// Templates below `root`, which need not exist yet.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The newest complete template for `key`, if there is one. Those whose files are not what was written
    /// are set aside. Reads all of their memory, a second for each GiB.
    ///
    /// # Errors
    /// When the folder is there but cannot be read.
    pub fn find(&self, key: &TemplateKey) -> Result<Option<Checked>, TemplateError> {
        let folder = self.root.join(key.digest()?);
        let mut found = generations(&folder)?;
        found.sort_unstable();
        for generation in found.into_iter().rev() {
            let folder = folder.join(generation.to_string());
            let files = TemplateFiles::in_folder(&folder);
            if folder.join(UNFIT).exists() {
                continue;
            }
            let Ok(text) = std::fs::read(folder.join(DESCRIPTION)) else {
                continue;
            };
            let Ok(described) = serde_json::from_slice::<Description>(&text) else {
                continue;
            };
            let length = |path: &Path| std::fs::metadata(path).map(|m| m.len()).unwrap_or(0);
            if described.key != *key
                || length(&files.memory) != described.memory_bytes
                || length(&files.device_state) != described.devices_bytes
                || !files.disk.is_file()
            {
                continue;
            }
            // Before their content, so that what changes meanwhile is noticed when it is used.
            let seen = Seen::of(files.all())?;
            if content::digest(&files)? == described.digest {
                return Ok(Some(Checked { files, seen }));
            }
            let folder = folder.display();
            tracing::warn!(
                "the template in {folder} was damaged on disk: its files are not what was written; it is \
                 built again"
            );
            self.set_aside(&files, "its files are not what was written")?;
        }
        Ok(None)
    }

    /// Boots `image` and turns it into a template. The VM is gone when this returns, unless
    /// the error says that even destroying it failed; it is then an orphan for the next sweep.
    ///
    /// # Errors
    /// When any step fails; nothing that [`Self::find`] would find is then left.
    pub async fn build(
        &self,
        hypervisor: &Arc<dyn Hypervisor>,
        key: &TemplateKey,
        image: ImageFiles,
        order: BuildOrder<'_>,
    ) -> Result<Checked, TemplateError> {
        let BuildOrder {
            vm,
            generation_id,
            site,
        } = order;
        let parent = self.root.join(key.digest()?);
        let generation = generations(&parent)?
            .into_iter()
            .max()
            .map_or(1, |last| last + 1);
        let building = parent.join(format!("{generation}.{BUILDING}"));
        remove(&building)?;
        create_private(&building)?;
        let files = TemplateFiles::in_folder(&building);
        let spec = VmSpec {
            id: vm,
            source: Source::Template(files.clone()),
            image,
            vcpus: key.vcpus,
            memory_mib: key.memory_mib,
            address: None,
            slot: None,
            generation_id,
        };
        let made = async {
            hypervisor.start(&spec).await?;
            failpoint::hit("template-started");
            let mut link = Link::new(hypervisor.channel(vm).await?, 0);
            link.wait_ready(BOOT_LIMIT, site).await?;
            link.quiesce(QUIESCE_LIMIT).await?;
            drop(link);
            hypervisor.snapshot(vm, &files).await?;
            failpoint::hit("template-written");
            Ok::<_, TemplateError>(())
        }
        .await;
        let destroyed = hypervisor.destroy(vm).await;
        if let Err(error) = made.and(destroyed.map_err(TemplateError::from)) {
            remove(&building)?;
            return Err(error);
        }
        // It reads and writes back all of the memory.
        let (this, key) = (self.clone(), key.clone());
        let publish = move || this.publish(&key, &building, &parent.join(generation.to_string()));
        match tokio::task::spawn_blocking(publish).await {
            Ok(published) => published,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// Describes the finished folder and gives it its name.
    fn publish(
        &self,
        key: &TemplateKey,
        building: &Path,
        folder: &Path,
    ) -> Result<Checked, TemplateError> {
        let files = TemplateFiles::in_folder(building);
        let length = |path: &Path| {
            std::fs::metadata(path)
                .map(|m| m.len())
                .map_err(|source| file_error("read", path, source))
        };
        let description = Description {
            key: key.clone(),
            memory_bytes: length(&files.memory)?,
            devices_bytes: length(&files.device_state)?,
            digest: content::digest(&files)?,
        };
        let text = serde_json::to_vec_pretty(&description).map_err(TemplateError::Description)?;
        let path = building.join(DESCRIPTION);
        std::fs::write(&path, text)
            .and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(0o600)))
            .map_err(|source| file_error("write", &path, source))?;
        // A host that loses power must not come back with a complete-looking template of zeros.
        for path in [&files.memory, &files.device_state, &files.disk, &path] {
            std::fs::File::open(path)
                .and_then(|file| file.sync_all())
                .map_err(|source| file_error("write", path, source))?;
        }
        std::fs::rename(building, folder).map_err(|source| file_error("name", folder, source))?;
        let files = TemplateFiles::in_folder(folder);
        let seen = Seen::of(files.all())?;
        Ok(Checked { files, seen })
    }

    /// Removes what a killed build left. For the start of a server, when nothing is being built.
    ///
    /// # Errors
    /// When a folder cannot be read or removed.
    pub fn sweep_unfinished(&self) -> Result<(), TemplateError> {
        for key in entries(&self.root)? {
            for generation in entries(&key)? {
                if generation
                    .extension()
                    .is_some_and(|extension| extension == BUILDING)
                {
                    remove(&generation)?;
                }
            }
        }
        Ok(())
    }

    /// How many complete templates of `key` are on disk, fit for use or not.
    ///
    /// # Errors
    /// When the folder is there but cannot be read.
    pub fn count(&self, key: &TemplateKey) -> Result<usize, TemplateError> {
        Ok(generations(&self.root.join(key.digest()?))?.len())
    }

    /// Folders of all templates but these. Clones may still read through to them.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn others(&self, current: &[PathBuf]) -> Result<Vec<PathBuf>, TemplateError> {
        let mut others = Vec::new();
        for key in entries(&self.root)? {
            let found = generations(&key)?
                .into_iter()
                .map(|generation| key.join(generation.to_string()));
            others.extend(found.filter(|folder| !current.contains(folder)));
        }
        Ok(others)
    }

    /// Disks of the images that templates on disk were made of, fit for use or not: their own are overlays
    /// over these.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn image_disks(&self) -> Result<Vec<PathBuf>, TemplateError> {
        let mut disks = Vec::new();
        for key in entries(&self.root)? {
            for folder in entries(&key)? {
                let text = std::fs::read(folder.join(DESCRIPTION)).unwrap_or_default();
                let described = serde_json::from_slice::<Description>(&text);
                disks.extend(described.map(|described| described.key.image_disk));
            }
        }
        Ok(disks)
    }

    /// Lets nobody find this template any more, and leaves it where it is: its clones go on.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn set_aside(&self, files: &TemplateFiles, why: &str) -> Result<(), TemplateError> {
        let Some(folder) = files.memory.parent().filter(|folder| folder.is_dir()) else {
            return Ok(());
        };
        let path = folder.join(UNFIT);
        std::fs::write(&path, why).map_err(|source| file_error("write", &path, source))
    }

    /// Removes a template that no machine uses, and the folder of its key if it was the last in it.
    ///
    /// # Errors
    /// When something of it is left.
    pub fn remove(&self, folder: &Path) -> Result<(), TemplateError> {
        remove(folder)?;
        if let Some(key) = folder.parent().filter(|key| key.starts_with(&self.root)) {
            // Another is in it, or it is gone already.
            let _ = std::fs::remove_dir(key);
        }
        Ok(())
    }
}

/// Numbers of the complete generations in a key's folder.
fn generations(folder: &Path) -> Result<Vec<u32>, TemplateError> {
    Ok(entries(folder)?
        .into_iter()
        .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
        .collect())
}

/// Paths in a folder; none if the folder is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, TemplateError> {
    let read = |source| file_error("read", folder, source);
    match std::fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| entry.map(|e| e.path()).map_err(read))
            .collect::<Result<_, _>>(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(read(source)),
    }
}

fn remove(folder: &Path) -> Result<(), TemplateError> {
    match std::fs::remove_dir_all(folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(file_error("remove", folder, source))
        }
        _ => Ok(()),
    }
}

/// Makes a folder that QEMU's user may pass through and nobody else may list. The files in it are
/// protected one by one.
fn create_private(folder: &Path) -> Result<(), TemplateError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(folder)
        .map_err(|source| file_error("create", folder, source))
}

fn file_error(doing: &'static str, path: &Path, source: std::io::Error) -> TemplateError {
    TemplateError::File {
        doing,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
