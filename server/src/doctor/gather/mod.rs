//! Looks at the host. Judges nothing.

mod kernel;
mod network;
mod site;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;

use super::facts::{Certificate, Disk, Facts, Images, Look, Memory, Nested, State};
use crate::app;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::hypervisor::Accelerator;
use crate::hypervisor::trial::{self, Runner, Versions};
use crate::image::{self, Image};
use crate::network::Trial;
use crate::words::in_one_line;
use crate::{oidc, tls};

/// Takes every look.
pub(super) async fn gather(config: &Config) -> Facts {
    let is_root = nix::unistd::geteuid().is_root();
    let runner = if is_root {
        Runner::find(app::uid_choice(config), app::accelerator_choice(config))
            .map_err(|error| in_one_line(&error))
            .map_or_else(Look::Failed, Look::Seen)
    } else {
        Look::TakesRoot
    };
    let server_runs = server_runs(&config.state_dir);
    let images = images(config, &runner, server_runs);
    let filters = network::filters(is_root);
    let (images, filters, trial) = tokio::join!(images, filters, network::trial(config, is_root));
    // Afterwards, for libvirt is opened in the namespace that was tried out, and takes over all processes that
    // end in this one.
    let versions = versions(config, &trial).await;
    Facts {
        is_root,
        server_runs,
        accelerator: runner.then(|runner| {
            let chosen = runner.accelerator(app::accelerator_choice(config));
            chosen.map(|(_, slow)| slow)
        }),
        nested: config.hypervisor.nested.then(|| {
            runner.then(|runner| {
                let chosen = runner.accelerator(app::accelerator_choice(config));
                chosen.map(|(accelerator, _)| nested(accelerator))
            })
        }),
        shared_user: runner
            .then(|runner| Ok::<_, std::io::Error>(runner.is_shared().map(str::to_owned))),
        control_groups: control_groups(config, is_root),
        versions,
        state: state(&config.state_dir, &runner),
        images,
        network: trial.then(|trial| Ok::<_, std::io::Error>(network::outcome(trial))),
        filters,
        forwarding: network::forwarding(is_root),
        nameservers: app::nameservers(config).len(),
        disk: disk(config),
        memory: memory(config),
        clock: kernel::clock(),
        ports: network::ports(config),
        certificate: certificate(config),
        issuers: issuers(config).await,
        site: site::gather(config).await,
    }
}

fn nested(accelerator: Accelerator) -> Nested {
    match (accelerator, trial::why_not_nested(accelerator)) {
        (_, Some(why)) => Nested::Off(why),
        (Accelerator::Kvm, None) => Nested::ByProcessor,
        (Accelerator::Tcg, None) => Nested::Emulated,
    }
}

fn control_groups(config: &Config, is_root: bool) -> Look<Option<Vec<String>>> {
    let is_libvirts = config.hypervisor.uri.is_some();
    if is_libvirts || !config.hypervisor.control_groups.enabled {
        // A libvirt of the host's makes its own.
        return Look::Seen(is_libvirts.then(Vec::new));
    }
    if !is_root {
        return Look::TakesRoot;
    }
    Look::Seen(Some(trial::groups_lacking(&config.state_dir)))
}

fn certificate(config: &Config) -> Option<Result<Certificate, String>> {
    let origin = app::tls_origin(config, &config.state_dir)?;
    let certificate = |seen| Certificate {
        seen,
        wanted: app::told_names(config),
        now: SystemClock.wall(),
    };
    let seen = tls::inspect(origin);
    Some(seen.map(certificate).map_err(|error| in_one_line(&error)))
}

/// Asks each issuer once, all at the same time.
async fn issuers(config: &Config) -> Vec<(String, Result<usize, String>)> {
    let proxies = app::proxies(config);
    let mut asked = Vec::new();
    for issuer in &config.oidc {
        let (terms, source) = issuer.terms();
        let (name, proxies) = (terms.issuer.clone(), proxies.clone());
        let answer = tokio::spawn(async move {
            let proxies = proxies.map_err(|error| in_one_line(&error))?;
            let keys = oidc::try_issuer(terms.issuer, source, proxies).await;
            keys.map_err(|error| in_one_line(&error))
        });
        asked.push((name, answer));
    }
    let mut answers = Vec::new();
    for (name, answer) in asked {
        let answer = match answer.await {
            Ok(answer) => answer,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        answers.push((name, answer));
    }
    answers
}

impl<T> Look<T> {
    /// Looks on from what was seen.
    fn then<'a, U, E: std::error::Error + 'static>(
        &'a self,
        next: impl FnOnce(&'a T) -> Result<U, E>,
    ) -> Look<U> {
        match self {
            Self::Seen(seen) => match next(seen) {
                Ok(fact) => Look::Seen(fact),
                Err(error) => Look::Failed(in_one_line(&error)),
            },
            Self::Failed(reason) => Look::Failed(reason.clone()),
            Self::TakesRoot => Look::TakesRoot,
        }
    }
}

async fn versions(config: &Config, trial: &Look<Trial>) -> Look<Versions> {
    let trial = match trial {
        Look::Seen(trial) => trial,
        Look::Failed(reason) => return Look::Failed(reason.clone()),
        Look::TakesRoot => return Look::TakesRoot,
    };
    let uri = config.hypervisor.uri.clone();
    match trial::find_versions(uri, &trial.namespace, trial.wires.clone()).await {
        Ok(versions) => Look::Seen(versions),
        Err(error) => Look::Failed(in_one_line(&error)),
    }
}

fn state(folder: &Path, runner: &Look<Runner>) -> State {
    let path = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    // The server opens the folder itself as far as QEMU needs it.
    let above = path.parent().unwrap_or(&path);
    State {
        path_fault: trial::check_path(&path).err().map(|e| in_one_line(&e)),
        is_there: path.exists(),
        writable: writable(existing(&path)),
        closed: runner.then(|runner| runner.first_closed(above)),
        path,
    }
}

/// The folder itself, or the nearest above it that is there.
fn existing(path: &Path) -> &Path {
    let there = path.ancestors().find(|path| path.exists());
    there.unwrap_or(Path::new("/"))
}

fn writable(folder: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    if !folder.is_dir() {
        return Err(failed(std::io::ErrorKind::NotADirectory.into()));
    }
    let wanted = AccessFlags::W_OK | AccessFlags::X_OK;
    nix::unistd::access(folder, wanted).map_err(|error| failed(error.into()))
}

/// Whether a server holds the state folder. Trying to hold it as well could get in the way of one that
/// starts at this moment.
fn server_runs(state: &Path) -> bool {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let file = std::fs::metadata(state.join("lock"));
    file.is_ok_and(|file| kernel::is_locked(&locks, file.ino()))
}

async fn images(config: &Config, runner: &Look<Runner>, server_runs: bool) -> Images {
    let folder = config.images_dir();
    let read = {
        let folder = folder.clone();
        tokio::task::spawn_blocking(move || image::load_all(&folder)).await
    };
    let read = match read {
        Ok(read) => read.map_err(|error| in_one_line(&error)),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    };
    let found = read.as_deref().unwrap_or_default();
    let size = |image: &Image| std::fs::metadata(&image.files.disk).map_or(0, |file| file.len());
    // Of a server that runs it is not known what was available when it started.
    let budget_mib = match config.limits.memory_budget_mib {
        None if server_runs => Ok(u64::MAX),
        _ => app::memory_budget_mib(config),
    };
    let offers = budget_mib.and_then(|budget_mib| app::check_offers(config, found, budget_mib));
    Images {
        largest_bytes: found.iter().map(size).max().unwrap_or(0),
        closed: runner.then(|runner| first_closed(runner, found)),
        offers: offers.map_err(|error| in_one_line(&error)),
        engines: read.map(|images| images.into_iter().map(|it| it.engine_version).collect()),
        folder,
    }
}

/// The first folder or file of the images that QEMU's user does not come to.
fn first_closed(runner: &Runner, images: &[Image]) -> std::io::Result<Option<PathBuf>> {
    for image in images {
        for file in [&image.files.disk, &image.files.kernel, &image.files.initrd] {
            let above = file.parent().unwrap_or(file);
            if let Some(closed) = runner.first_closed(above)? {
                return Ok(Some(closed));
            }
            if runner.may_not_read(file)? {
                return Ok(Some(file.clone()));
            }
        }
    }
    Ok(None)
}

fn disk(config: &Config) -> Result<Disk, String> {
    let folder = existing(&config.state_dir);
    let reserve = app::disk_reserve_bytes(config, folder).map_err(|error| in_one_line(&error))?;
    let room = nix::sys::statvfs::statvfs(folder)
        .map_err(|error| format!("cannot tell how full {} is: {error}", folder.display()))?;
    Ok(Disk {
        free: room.blocks_available().saturating_mul(room.fragment_size()),
        reserve,
    })
}

fn memory(config: &Config) -> Result<Memory, String> {
    let unknown = |error: std::io::Error| format!("cannot tell how much memory there is: {error}");
    let sizes = config.sizes.iter();
    Ok(Memory {
        available: app::available_memory_mib().map_err(unknown)?,
        budget: app::memory_budget_mib(config).map_err(|error| in_one_line(&error))?,
        is_configured: config.limits.memory_budget_mib.is_some(),
        sizes: sizes
            .map(|(name, size)| (name.clone(), size.memory_mib.into()))
            .collect(),
        default_size: config.default_size.clone(),
    })
}
