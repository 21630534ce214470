//! Starting VMs, and turning one into a template.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::sys;

use super::domains::{self, Condition, Found};
use super::ends::Ends;
use super::process::Qemu;
use super::{Host, LibvirtError, blocking, destroy, monitor, observe};
use crate::hypervisor::control_groups::Groups;
use crate::hypervisor::disk::says_disk_full;
use crate::hypervisor::domain_xml::{DomainPlan, Owner, domain_xml};
use crate::hypervisor::folder::{VmFolder, create_for_qemu, file_error, write_for_qemu};
use crate::hypervisor::idle_states;
use crate::hypervisor::qemu_user::QemuUser;
use crate::hypervisor::{
    Accelerator, HypervisorError, Source, StartReport, Step, TemplateFiles, VmSpec,
};
use crate::ids::VmId;

/// How long libvirt may take to start QEMU. The first start on a host also probes QEMU.
const DEFINE_LIMIT: Duration = Duration::from_secs(60);
/// How long QEMU may take to load the state of the devices, some hundred KiB.
const LOAD_LIMIT: Duration = Duration::from_secs(30);
/// How long QEMU may take to write it.
const SAVE_LIMIT: Duration = Duration::from_secs(60);
/// How long QEMU may take to go on.
const RESUME_LIMIT: Duration = Duration::from_secs(30);

/// Makes wire, folder and disk, and runs the VM.
///
/// # Errors
/// When any part fails; what was made by then is left for [`destroy::destroy`].
pub(super) async fn start(host: &Host, spec: &VmSpec) -> Result<StartReport, HypervisorError> {
    let folder = host.folder(spec.id);
    if folder.path().exists() {
        return started_before(host, spec.id, &folder).await;
    }
    let (wire, disk) = tokio::join!(
        timed("wire", wire(host, spec)),
        timed("disk", files(host, spec, &folder))
    );
    let mut steps = vec![wire?, disk?];
    match run(host, spec, &folder).await {
        Ok(run) => steps.extend(run),
        Err(error) => return Err(explain(host, spec, error).await),
    }
    Ok(StartReport { steps })
}

/// Writes the state of a VM's devices and ends the VM. From then on nobody changes the files.
///
/// # Errors
/// When QEMU cannot write the state.
pub(super) async fn snapshot(
    host: &Host,
    vm: VmId,
    template: &TemplateFiles,
) -> Result<(), HypervisorError> {
    let owner = Owner {
        install: host.install,
        vm,
    };
    let devices = template.device_state.clone();
    let limit = SAVE_LIMIT + DEFINE_LIMIT;
    host.threads
        .call_for(vm, "snapshot the VM", limit, move |connect| {
            let Found::Ours(domain) = domains::find(connect, owner)? else {
                return Err(HypervisorError::NotRunning { vm });
            };
            if !domains::runs(&domain)? {
                return Err(HypervisorError::NotRunning { vm });
            }
            domain.suspend().doing("stop the VM's processors")?;
            monitor::save_devices(&domain, &devices, SAVE_LIMIT)
        })
        .await?;
    destroy::end(host, vm).await?;
    host.wires.detach(vm).await?;
    let (user, files) = (host.usual.clone(), template.clone());
    blocking("protect the template", move || {
        // Clones read them and can do no more.
        for path in [&files.memory, &files.device_state, &files.disk] {
            user.let_group_in(path, 0o440)
                .map_err(|error| file_error("protect", path, error))?;
        }
        Ok(())
    })
    .await
}

/// Lets a VM go on that stands still for want of disk space.
///
/// # Errors
/// When it is not there or cannot go on.
pub(super) async fn resume(host: &Host, vm: VmId) -> Result<(), HypervisorError> {
    let install = host.install;
    host.threads
        .call_for(vm, "let the VM go on", RESUME_LIMIT, move |connect| {
            let Found::Ours(domain) = domains::find(connect, Owner { install, vm })? else {
                return Err(HypervisorError::NotRunning { vm });
            };
            match domains::condition(&domain)? {
                Condition::Runs => Ok(()),
                Condition::Stalled => domain.resume().doing("let the VM go on"),
                // A clone that waits for its state must not run without it.
                Condition::Still => Err(HypervisorError::NotRunning { vm }),
            }
        })
        .await
}

/// The answer to a start that was made before: well if it runs, else it is to be destroyed.
async fn started_before(
    host: &Host,
    vm: VmId,
    folder: &VmFolder,
) -> Result<StartReport, HypervisorError> {
    let install = host.install;
    let runs = host
        .threads
        .call_for(
            vm,
            "look for the VM",
            DEFINE_LIMIT,
            move |connect| match domains::find(connect, Owner { install, vm })? {
                Found::Ours(domain) => domains::runs(&domain),
                Found::Foreign | Found::Nothing => Ok(false),
            },
        );
    if runs.await? {
        return Ok(StartReport::default());
    }
    Err(file_error(
        "start a VM that was half made before; destroy it first:",
        folder.path(),
        std::io::ErrorKind::AlreadyExists.into(),
    ))
}

async fn wire(host: &Host, spec: &VmSpec) -> Result<(), HypervisorError> {
    match spec.address {
        Some(address) => host.wires.attach(spec.id, address).await?,
        None => host.wires.attach_isolated(spec.id).await?,
    }
    Ok(())
}

async fn files(host: &Host, spec: &VmSpec, folder: &VmFolder) -> Result<(), HypervisorError> {
    let runner = host.user_of(spec)?;
    let (own, user, source) = (folder.clone(), runner.clone(), spec.source.clone());
    let memory = u64::from(spec.memory_mib) << 20;
    let vcpus = spec.vcpus;
    blocking("make the VM's folder", move || {
        own.create(&user)?;
        if !matches!(source, Source::Clone(_)) {
            write_for_qemu(&own.idle_states(), &idle_states::table(vcpus), &user)?;
        }
        if let Source::Template(files) = &source {
            // Mapped memory that finds no room kills QEMU without a word.
            demand_room(&files.memory, memory)?;
            create_for_qemu(&files.memory, memory, &user)?;
            create_for_qemu(&files.device_state, 0, &user)?;
        }
        if let Source::Clone(files) = &source {
            let_in(files, &user)?;
        }
        Ok(())
    })
    .await?;
    let (disks, user, image) = (&host.disks, &runner, &spec.image.disk);
    match &spec.source {
        Source::Cold => disks.overlay(image, &folder.disk(), user).await,
        Source::Template(files) => disks.overlay(image, &files.disk, user).await,
        Source::Clone(files) => {
            let disk = folder.disk();
            disks.overlay_of_template(&files.disk, &disk, user).await
        }
    }
}

/// Opens a template to the group that clones have now, if it was made when they had another.
fn let_in(files: &TemplateFiles, user: &QemuUser) -> Result<(), HypervisorError> {
    for path in [&files.memory, &files.device_state, &files.disk] {
        let data = std::fs::metadata(path).map_err(|error| file_error("read", path, error))?;
        if !user.is_group_of(&data) {
            user.let_group_in(path, 0o440)
                .map_err(|error| file_error("protect", path, error))?;
        }
    }
    Ok(())
}

fn demand_room(path: &Path, bytes: u64) -> Result<(), HypervisorError> {
    if observe::room_in(path.parent().unwrap_or(path))? < bytes {
        let path = path.to_owned();
        return Err(HypervisorError::DiskFull { path });
    }
    Ok(())
}

async fn run(host: &Host, spec: &VmSpec, folder: &VmFolder) -> Result<Vec<Step>, HypervisorError> {
    let xml = domain_xml(&DomainPlan {
        install: host.install,
        accelerator: host.facts.accelerator,
        nested: host.facts.nested,
        spec,
        folder,
        user: host.user_of(spec)?.ids(),
    });
    let (vm, notes, ends) = (spec.id, host.run.clone(), Arc::clone(&host.ends));
    let keep = Keep {
        groups: host.groups.clone(),
        accelerator: host.facts.accelerator,
        spec: spec.clone(),
    };
    let state = match &spec.source {
        Source::Clone(files) => Some(files.device_state.clone()),
        Source::Cold | Source::Template(_) => None,
    };
    let limit = DEFINE_LIMIT + LOAD_LIMIT;
    host.threads
        .call_for(vm, "start the VM", limit, move |connect| {
            let begun = Instant::now();
            let flags = match state {
                Some(_) => sys::VIR_DOMAIN_START_PAUSED,
                None => sys::VIR_DOMAIN_NONE,
            };
            let domain = define(connect, &xml, flags)?;
            let qemu = notes.and_then(|notes| take_note(&notes, vm, &ends));
            let mut steps = vec![step("define", begun)];
            let Some(state) = state else {
                keep.bound(qemu);
                return Ok(steps);
            };
            let begun = Instant::now();
            // Either takes the kernel a moment. Before the clone runs, so that what its guest takes counts.
            std::thread::scope(|scope| {
                scope.spawn(|| keep.bound(qemu));
                monitor::load_devices(&domain, &state, LOAD_LIMIT)
            })?;
            steps.push(step("state", begun));
            let begun = Instant::now();
            domain.resume().doing("run the VM's processors")?;
            steps.push(step("resume", begun));
            Ok(steps)
        })
        .await
}

fn define(connect: &Connect, xml: &str, flags: u32) -> Result<Domain, HypervisorError> {
    connect.create_domain_xml(xml, flags).doing("start the VM")
}

/// What holds a VM's process to its bounds.
struct Keep {
    groups: Option<Arc<Groups>>,
    accelerator: Accelerator,
    spec: VmSpec,
}

impl Keep {
    fn bound(&self, qemu: Option<Pid>) {
        if let (Some(groups), Some(qemu)) = (&self.groups, qemu) {
            groups.place(&self.spec, self.accelerator, qemu);
        }
    }
}

/// Notes whose process this is and lets the kernel take it before the server, and tells which it is. Without
/// either the VM runs as well; so a failure is told and no more.
fn take_note(notes: &Path, vm: VmId, ends: &Ends) -> Option<Pid> {
    let found = Qemu::find(notes, vm);
    let found = found.and_then(|qemu| qemu.ok_or(std::io::ErrorKind::NotFound.into()));
    let noted = found.map(|qemu| {
        ends.started(vm, qemu.pid());
        (qemu.pid(), qemu.sacrifice_first())
    });
    let (qemu, done) = match noted {
        Ok((pid, done)) => (Some(pid), done),
        Err(error) => (None, Err(error)),
    };
    if let Err(error) = done {
        tracing::warn!(%vm, %error, "{vm}: memory pressure may take the server before this VM");
    }
    qemu
}

/// Finds the reasons that libvirt and QEMU do not name well: files that QEMU's user cannot read, and
/// a full disk.
async fn explain(host: &Host, spec: &VmSpec, error: HypervisorError) -> HypervisorError {
    let said = match &error {
        HypervisorError::Libvirt { source, .. } => source.message().to_owned(),
        HypervisorError::Monitor { detail, .. } => detail.clone(),
        _ => return error,
    };
    if says_disk_full(&said) {
        let path = host.vms.clone();
        return HypervisorError::DiskFull { path };
    }
    let mut paths = vec![
        spec.image.disk.clone(),
        spec.image.kernel.clone(),
        spec.image.initrd.clone(),
    ];
    if let Source::Clone(files) = &spec.source {
        paths.extend([files.memory.clone(), files.device_state.clone()]);
        paths.push(files.disk.clone());
    }
    let user = host.user_of(spec).unwrap_or_else(|_| host.user.clone());
    let runner = user.clone();
    let denied = blocking("look for files that QEMU cannot read", move || {
        let denied = |path: &PathBuf| runner.is_denied(path, false).unwrap_or(false);
        Ok(paths.into_iter().find(denied))
    });
    match denied.await {
        Ok(Some(path)) => {
            let group = &host.user.group;
            let folder = user.first_closed(&path).ok().flatten();
            let (closed, right) = match &folder {
                Some(folder) if *folder != path => (folder.display(), "x"),
                _ => (path.display(), "r"),
            };
            HypervisorError::Unsuitable(format!(
                "QEMU, which runs in the group {group}, cannot read {}: allow it with `setfacl -m \
                 g:{group}:{right} {closed}`, or keep the file elsewhere",
                path.display()
            ))
        }
        _ => error,
    }
}

async fn timed(
    name: &'static str,
    step: impl Future<Output = Result<(), HypervisorError>>,
) -> Result<Step, HypervisorError> {
    let begun = Instant::now();
    step.await?;
    Ok(self::step(name, begun))
}

fn step(name: &'static str, begun: Instant) -> Step {
    Step {
        name,
        duration: begun.elapsed(),
    }
}
