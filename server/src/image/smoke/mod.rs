//! Tries an image out on this host, as those who will use it do: a server of its own, with nothing but this
//! image, leases a machine, and the image's own docker CLI builds and runs a container on it over TLS. The
//! server that may be running here is not touched.

mod api;
mod docker;
mod left;
mod server;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use tokio_util::sync::CancellationToken;

use super::Entry;
use crate::config::Config;
use docker::Docker;
use left::Locked;
use server::TrialServer;

/// What the trial came to.
#[derive(Debug)]
pub struct Passed {
    /// Until the server was ready, with the template that it built.
    pub ready: Duration,
    /// From the request to a machine.
    pub lease: Duration,
    /// From then until a container was built and had run.
    pub work: Duration,
}

/// An image did not pass, or could not be tried out.
#[derive(Debug, thiserror::Error)]
pub enum SmokeError {
    /// A machine can be made by root only.
    #[error("an image is tried out with a machine of its own, which takes root: run it with sudo")]
    NotRoot,
    /// Something on the host is in the way.
    #[error("could not {doing} {path}", path = path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The trial's configuration cannot be written down.
    #[error("no configuration could be made for the trial")]
    Config(#[source] toml::ser::Error),
    /// The keys of the trial could not be made.
    #[error("no key could be made")]
    Key(#[from] rcgen::Error),
    /// The server ended, or did not become ready in time.
    #[error(
        "the server that was to try the image out {what}. What it had is in {folder}. It said last:\n\
         {last_words}",
        folder = folder.display()
    )]
    Server {
        /// What it did.
        what: String,
        /// Its folder, which is there only if it did not end in good order.
        folder: PathBuf,
        /// The end of its log.
        last_words: String,
    },
    /// It gave no machine.
    #[error("no machine could be had of the image: {why}. The server said last:\n{last_words}")]
    Lease {
        /// What the server answered.
        why: String,
        /// The end of its log.
        last_words: String,
    },
    /// Docker did not do what it was told.
    #[error("the machine came, and `docker {command}` failed:\n{output}")]
    Docker {
        /// What it was told.
        command: String,
        /// What it said.
        output: String,
    },
    /// A signal came.
    #[error("told to stop")]
    Stopped,
}

/// Tries out `image` with the accelerator and the users of `config`. Takes as long as a template and a lease
/// take: seconds, or most of a minute without hardware virtualization. Whatever it made is gone afterwards,
/// also when it is told to stop.
///
/// # Errors
/// When the image does not do what a machine is for, or cannot be tried.
pub(super) async fn smoke(
    image: &Entry,
    config: &Config,
    stop: &CancellationToken,
) -> Result<Passed, SmokeError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(SmokeError::NotRoot);
    }
    let folder = Scratch::new()?;
    let began = Instant::now();
    let mut server = TrialServer::start(&folder.locked, image, config)?;
    let outcome = tokio::select! {
        outcome = try_out(&mut server, folder.path(), image, began) => outcome,
        () = stop.cancelled() => Err(SmokeError::Stopped),
    };
    // In any case, so that its machine goes.
    if let Err(error) = server.stop().await {
        // By what is there, what it may have left can still be found.
        folder.keep();
        return Err(error);
    }
    outcome
}

async fn try_out(
    server: &mut TrialServer,
    folder: &Path,
    image: &Entry,
    began: Instant,
) -> Result<Passed, SmokeError> {
    server.wait_ready().await?;
    let ready = began.elapsed();
    let key = KeyPair::generate()?;
    let request = CertificateParams::default().serialize_request(&key)?;
    let asked = Instant::now();
    let endpoint = server
        .lease(&image.candidate.engine, request.pem()?)
        .await?;
    let lease = asked.elapsed();
    let docker = Docker::new(&image.folder, folder, &endpoint, &key.serialize_pem())?;
    let at_work = Instant::now();
    docker.works().await?;
    Ok(Passed {
        ready,
        lease,
        work: at_work.elapsed(),
    })
}

/// Paths of sockets below must stay short.
const BASE: &str = "/var/tmp";

/// A folder of the trial's own, which goes with it. QEMU's user can pass through.
struct Scratch {
    locked: Locked,
}

impl Scratch {
    fn new() -> Result<Self, SmokeError> {
        let base = Path::new(BASE);
        left::sweep(base).map_err(file("look for what earlier trials left in", base))?;
        let locked = left::make(base).map_err(file("make a folder in", base))?;
        Ok(Self { locked })
    }

    fn path(&self) -> &Path {
        &self.locked.path
    }
}

impl Scratch {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(self.path()) {
            tracing::warn!("{} is left: {error}", self.path().display());
        }
    }
}

fn file(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> SmokeError {
    let path = path.to_owned();
    move |source| SmokeError::File {
        doing,
        path,
        source,
    }
}
