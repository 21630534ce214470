//! The folder of a lease: the TLS material for `docker`, and a note of where the lease came from.
//!
//! Folders lie in `$XDG_RUNTIME_DIR/setup-remote-docker` or, without a usable one of these, in
//! `setup-remote-docker-UID` in the folder for temporary files. Anybody may plant something there
//! under that name, so it is used only if it is a real folder, owned by this user and closed to
//! others.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use remote_docker_api::{Lease, LeaseId, SshEndpoint};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::config::{LeaseAccess, Token};
use crate::docker::plan::Plan;
use crate::environment::Environment;
use crate::exports::Change;
use crate::keys::Certificates;
use crate::server_url::ServerUrl;

const NOTE: &str = "lease.json";
const KNOWN_HOSTS: &str = "known_hosts";
const TOKEN: &str = "token";
const FILES: [&str; 6] = ["ca.pem", "cert.pem", "key.pem", NOTE, KNOWN_HOSTS, TOKEN];

/// Where folders of leases lie; it has been made and checked.
#[derive(Debug)]
pub(crate) struct Base(PathBuf);

/// The folder of one lease.
#[derive(Debug)]
pub(crate) struct LeaseDir {
    path: PathBuf,
    /// The same path as text that shells and JSON can carry.
    text: String,
}

/// What is noted beside the keys; no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// The lease.
    pub(crate) id: LeaseId,
    /// The server that made it.
    pub(crate) url: String,
    /// Its Docker daemon, as in `DOCKER_HOST`; empty in notes of old versions.
    #[serde(default)]
    pub(crate) docker_host: String,
    /// How to log in on its machine, if the server told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ssh: Option<SshEndpoint>,
    /// When it ends.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub(crate) expires_at: Option<OffsetDateTime>,
    /// Variables that were changed for it beside its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) changes: Vec<Change>,
    /// What is made for it in docker's own configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) docker: Option<Plan>,
}

/// What went wrong with a folder or its files.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseDirError {
    #[error("cannot make the folder {}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("the folder {} is not safe for keys: {fault}", path.display())]
    Unsafe { path: PathBuf, fault: &'static str },
    #[error("the folder's path {} is not UTF-8", path.display())]
    NotText { path: PathBuf },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot remove {}", path.display())]
    Remove { path: PathBuf, source: io::Error },
}

impl Base {
    /// Makes the folder, or checks the one that is there.
    ///
    /// # Errors
    /// It cannot be made, or what is there is not safe.
    pub(crate) fn prepare(environment: &Environment) -> Result<Self, LeaseDirError> {
        if let Some(path) = in_runtime_dir(environment) {
            match make_private(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(LeaseDirError::Make { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let path = in_temp_dir(environment);
        make_private(&path)?;
        Ok(Self(path))
    }

    /// Writes a file and removes it again; gives the path of the folder.
    ///
    /// # Errors
    /// Says what could not be written or removed.
    pub(crate) fn try_out(self) -> Result<PathBuf, LeaseDirError> {
        // Unique among those that run at the same time.
        let path = self.0.join(format!(".try-{}", std::process::id()));
        write_new(&path, "x")?;
        fs::remove_file(&path).map_err(|source| LeaseDirError::Remove { path, source })?;
        Ok(self.0)
    }

    /// Writes the folder of a lease. After an error nothing of it is left.
    ///
    /// # Errors
    /// Says which file could not be written.
    pub(crate) fn write(
        &self,
        lease: &Lease,
        server: &ServerUrl,
        certificates: &Certificates,
        key_pem: &str,
        changes: &[Change],
        docker: Option<&Plan>,
    ) -> Result<LeaseDir, LeaseDirError> {
        let path = self.0.join(lease.id.to_string());
        let Some(text) = path.to_str().map(str::to_owned) else {
            return Err(LeaseDirError::NotText { path });
        };
        private_dir(&path).map_err(|source| LeaseDirError::Make {
            path: path.clone(),
            source,
        })?;
        let dir = LeaseDir { path, text };
        let note = Note {
            id: lease.id,
            url: server.to_string(),
            docker_host: lease
                .docker
                .as_ref()
                .map_or_else(String::new, |docker| docker.host.clone()),
            ssh: lease.ssh.clone(),
            expires_at: lease.expires_at,
            changes: changes.to_vec(),
            docker: docker.cloned(),
        };
        let written = serde_json::to_string(&note)
            .map_err(|error| LeaseDirError::Write {
                path: dir.path.join(NOTE),
                source: error.into(),
            })
            .and_then(|note| {
                dir.write_file("ca.pem", &certificates.ca_pem)?;
                dir.write_file("cert.pem", &certificates.cert_pem)?;
                dir.write_file("key.pem", key_pem)?;
                if let Some(ssh) = &lease.ssh {
                    let line = format!("{} {}\n", lease.id, ssh.host_key);
                    dir.write_file(KNOWN_HOSTS, &line)?;
                }
                if let Some(token) = &lease.token {
                    dir.write_file(TOKEN, token.reveal())?;
                }
                dir.write_file(NOTE, &note)
            });
        if let Err(error) = written {
            // The first fault is the one to tell.
            let _ = dir.remove();
            return Err(error);
        }
        Ok(dir)
    }
}

impl LeaseDir {
    /// Finds the folder of a lease, wherever `start` may have put it.
    pub(crate) fn find(environment: &Environment, id: LeaseId) -> Option<Self> {
        let name = id.to_string();
        let usual = [in_runtime_dir(environment), Some(in_temp_dir(environment))]
            .into_iter()
            .flatten()
            .filter(|base| check_private(base).is_ok())
            .map(|base| base.join(&name));
        // The variables may have changed since; this one was set by `start`.
        let exported = environment
            .docker_cert_path
            .clone()
            .filter(|path| path.is_absolute() && path.ends_with(&name));
        usual
            .chain(exported)
            .filter(|path| check_private(path).is_ok())
            .find_map(|path| {
                let text = path.to_str()?.to_owned();
                Some(Self { path, text })
            })
    }

    /// Its path, for `DOCKER_CERT_PATH`.
    pub(crate) fn path(&self) -> &str {
        &self.text
    }

    /// The file by which SSH clients know the machine.
    pub(crate) fn known_hosts(&self) -> PathBuf {
        self.path.join(KNOWN_HOSTS)
    }

    /// What is noted in it, if that can be read.
    pub(crate) fn note(&self) -> Option<Note> {
        serde_json::from_str(&fs::read_to_string(self.path.join(NOTE)).ok()?).ok()
    }

    /// How its server is spoken to about it.
    pub(crate) fn access(&self) -> LeaseAccess {
        let token = crate::config::read_bounded(&self.path.join(TOKEN)).ok();
        LeaseAccess {
            url: self.note().map(|note| note.url),
            token: token.and_then(|token| Token::of_lease(&token)),
        }
    }

    /// Removes its files and then the folder. What the user put beside them stays, with the folder.
    ///
    /// # Errors
    /// Says what could not be removed; the key is tried first.
    pub(crate) fn remove(&self) -> Result<(), LeaseDirError> {
        let failed = |path: PathBuf| move |source| LeaseDirError::Remove { path, source };
        for name in ["key.pem"].into_iter().chain(FILES) {
            let path = self.path.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.map_err(failed(path))?,
            }
        }
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(failed(self.path.clone())),
        }
    }

    fn write_file(&self, name: &str, content: &str) -> Result<(), LeaseDirError> {
        write_new(&self.path.join(name), content)
    }
}

fn write_new(path: &Path, content: &str) -> Result<(), LeaseDirError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .map_err(|source| LeaseDirError::Write {
            path: path.to_owned(),
            source,
        })
}

fn in_runtime_dir(environment: &Environment) -> Option<PathBuf> {
    let path = environment.runtime_dir.as_ref()?;
    // After `su` the variable may still name the folder of somebody else.
    let own = fs::metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == own_uid());
    (path.is_absolute() && own).then(|| path.join("setup-remote-docker"))
}

fn in_temp_dir(environment: &Environment) -> PathBuf {
    environment
        .temp_dir
        .as_deref()
        .filter(|path| path.is_absolute())
        .unwrap_or(Path::new("/tmp"))
        .join(format!("setup-remote-docker-{}", own_uid()))
}

fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

fn make_private(path: &Path) -> Result<(), LeaseDirError> {
    match private_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check_private(path),
        Err(source) => Err(LeaseDirError::Make {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Looks at the path itself and not at what a link there points to.
fn check_private(path: &Path) -> Result<(), LeaseDirError> {
    let meta = fs::symlink_metadata(path).map_err(|source| LeaseDirError::Make {
        path: path.to_owned(),
        source,
    })?;
    let fault = if meta.is_symlink() {
        "it is a symbolic link"
    } else if !meta.is_dir() {
        "it is not a folder"
    } else if meta.uid() != own_uid() {
        "it belongs to another user"
    } else if meta.mode() & 0o077 != 0 {
        "other users can enter it"
    } else {
        return Ok(());
    };
    Err(LeaseDirError::Unsafe {
        path: path.to_owned(),
        fault,
    })
}

#[cfg(test)]
mod tests;
