//! A server for the trial: this program, with a configuration that offers the one image.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use remote_docker_api::{CreateLease, DockerEndpoint, Lease};
use serde::Serialize;
use tokio::process::{Child, Command};

use super::api::{ask, request};
use super::left::Locked;
use super::{Entry, SmokeError, file};
use crate::config::{AcceleratorChoice, Cidr, Config, QemuUids, SiteConfig};

/// How long it may take to be ready: a template is built, which takes most of a minute without hardware
/// virtualization, with room.
const READY_LIMIT: Duration = Duration::from_secs(240);

/// How long a machine may take.
const LEASE_LIMIT: Duration = Duration::from_secs(120);

/// How long it may take to go: longer than a server that drains gives itself.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// How often it is asked whether it is ready.
const PERIOD: Duration = Duration::from_millis(200);

/// How much of its log is told, in bytes.
const LAST_WORDS_BYTES: usize = 4096;

pub(super) struct TrialServer {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl TrialServer {
    pub(super) fn start(
        trial: &Locked,
        image: &Entry,
        config: &Config,
    ) -> Result<Self, SmokeError> {
        let folder = trial.path.as_path();
        let images = folder.join("images");
        std::fs::create_dir(&images).map_err(file("make", &images))?;
        let link = images.join(&image.candidate.name);
        std::os::unix::fs::symlink(&image.folder, &link).map_err(file("make", &link))?;
        // Somebody may take the port until the server does; then it says so.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|it| it.local_addr());
        let address = free.map_err(file("find a port for", folder))?;
        let path = folder.join("config.toml");
        let text = config_text(folder, address, config)?;
        write_private(&path, &text).map_err(file("write", &path))?;
        let log_path = folder.join("log");
        let log = std::fs::File::create(&log_path).map_err(file("write", &log_path))?;
        let again = log.try_clone().map_err(file("write", &log_path))?;
        let program = std::env::current_exe().map_err(file("find", folder))?;
        let mut command = Command::new(&program);
        command
            .args(["serve", "--drain", "0", "--config"])
            .arg(&path)
            // It is told to end once, by us: a second signal, as from the terminal, would have it leave its
            // machine behind.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(again);
        for (name, _) in std::env::vars_os() {
            // What is meant for the server of this host is not meant for this one.
            if name.to_string_lossy().starts_with("REMOTE_DOCKERD_") {
                command.env_remove(name);
            }
        }
        let lock = trial.lock().as_raw_fd();
        // SAFETY: prctl and fcntl are plain system calls, which may be made between fork and exec. The lock is open
        // in this process for longer than that, and it is the child's own descriptor that is changed.
        unsafe {
            command.pre_exec(move || {
                // The folder is in use until the server has ended as well.
                if libc::fcntl(lock, libc::F_SETFD, 0) == -1 {
                    return Err(std::io::Error::last_os_error());
                }
                // Who is killed while trying an image out must not leave a server behind.
                nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(std::io::Error::from)
            });
        }
        let child = command.spawn().map_err(file("run", &program))?;
        Ok(Self {
            child,
            address,
            folder: folder.to_owned(),
        })
    }

    pub(super) async fn wait_ready(&mut self) -> Result<(), SmokeError> {
        let began = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failed(format!("ended with {status}")));
            }
            let asked = request(self.address, "GET", "/readyz", "", Vec::new());
            if let Ok(asked) = asked
                && let Ok((StatusCode::OK, _)) = ask(self.address, asked, PERIOD * 10).await
            {
                return Ok(());
            }
            if began.elapsed() > READY_LIMIT {
                let limit_s = READY_LIMIT.as_secs();
                return Err(self.failed(format!("was not ready in {limit_s} s")));
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Leases a machine and answers how its Docker is reached.
    pub(super) async fn lease(
        &self,
        engine: &str,
        client_csr_pem: String,
    ) -> Result<DockerEndpoint, SmokeError> {
        let failed = |why: String| SmokeError::Lease {
            why,
            last_words: self.last_words(),
        };
        let path = self.folder.join("state/token");
        let token = std::fs::read_to_string(&path).map_err(file("read", &path))?;
        let wanted = CreateLease {
            engine: Some(engine.to_owned()),
            client_csr_pem,
            ..CreateLease::default()
        };
        let body = serde_json::to_vec(&wanted).map_err(|error| failed(error.to_string()))?;
        let asked = request(self.address, "POST", "/v1/leases", token.trim(), body);
        let asked = asked.map_err(&failed)?;
        let answer = ask(self.address, asked, LEASE_LIMIT).await;
        let (status, body) = answer.map_err(&failed)?;
        let text = || String::from_utf8_lossy(&body).into_owned();
        if status != StatusCode::CREATED {
            return Err(failed(format!("{status}: {}", text())));
        }
        let lease: Lease =
            serde_json::from_slice(&body).map_err(|error| failed(error.to_string()))?;
        lease.docker.ok_or_else(|| failed(text()))
    }

    /// Ends it; its machines go with it.
    pub(super) async fn stop(&mut self) -> Result<(), SmokeError> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        match tokio::time::timeout(STOP_LIMIT, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.failed(format!("ended with {status}"))),
            Ok(Err(error)) => Err(self.failed(format!("cannot be waited for: {error}"))),
            Err(_) => {
                let limit_s = STOP_LIMIT.as_secs();
                let failed = self.failed(format!("did not end in {limit_s} s and was killed"));
                // Whether or not that works, there is nothing else to do.
                let _ = self.child.kill().await;
                Err(failed)
            }
        }
    }

    fn failed(&self, what: String) -> SmokeError {
        SmokeError::Server {
            what,
            folder: self.folder.clone(),
            last_words: self.last_words(),
        }
    }

    fn last_words(&self) -> String {
        let log = std::fs::read(self.folder.join("log")).unwrap_or_default();
        let from = log.len().saturating_sub(LAST_WORDS_BYTES);
        let tail = log.get(from..).unwrap_or_default();
        String::from_utf8_lossy(tail).trim_end().to_owned()
    }
}

/// Others are kept from it: there may be the proxy's password in it.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

/// No wire to the host's network, no audit log, and the machines of those who use this host are none of its
/// concern. What the site has of its own is what its machines will be told, so it is told to this one.
fn config_text(folder: &Path, address: SocketAddr, config: &Config) -> Result<String, SmokeError> {
    let accelerator = match config.hypervisor.accelerator {
        AcceleratorChoice::Auto => "auto",
        AcceleratorChoice::Kvm => "kvm",
        AcceleratorChoice::Tcg => "tcg",
    };
    let qemu_uids = match config.hypervisor.qemu_uids {
        QemuUids::Auto => "auto".to_owned(),
        QemuUids::Shared => "shared".to_owned(),
        QemuUids::Range { first, last } => format!("{first}-{last}"),
    };
    let site = SiteConfig {
        // Nothing on this host is reached without a wire to it.
        reach_on_host: Vec::new(),
        ..config.site.clone()
    };
    let text = TrialConfig {
        state_dir: folder.join("state"),
        images_dir: folder.join("images"),
        http: Http { listen: address },
        network: Network {
            uplink: "none",
            // The site's ranges fit beside this one.
            guest_network: config.network.guest_network.as_cidr(),
        },
        hypervisor: Hypervisor {
            accelerator,
            qemu_uids,
        },
        audit: Audit { enabled: false },
        site,
    };
    toml::to_string(&text).map_err(SmokeError::Config)
}

#[derive(Serialize)]
struct TrialConfig {
    state_dir: PathBuf,
    images_dir: PathBuf,
    http: Http,
    network: Network,
    hypervisor: Hypervisor,
    audit: Audit,
    site: SiteConfig,
}

#[derive(Serialize)]
struct Http {
    listen: SocketAddr,
}

#[derive(Serialize)]
struct Network {
    uplink: &'static str,
    guest_network: Cidr,
}

#[derive(Serialize)]
struct Hypervisor {
    accelerator: &'static str,
    qemu_uids: String,
}

#[derive(Serialize)]
struct Audit {
    enabled: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_trial_has_what_the_site_has() {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
        let text = format!(
            r#"
            [network]
            guest_network = "10.77.0.0/16"
            [hypervisor]
            accelerator = "tcg"
            qemu_uids = "shared"
            [site]
            registry_mirrors = ["http://192.168.1.10:5000"]
            insecure_registries = ["registry.lan:5001", "10.1.2.0/24"]
            reach_on_host = ["192.168.1.10:5000"]
            mtu = 1400
            address_pools = [{{ base = "10.213.0.0/16", size = 24 }}]
            container_logs = {{ max_size = "10m", max_files = 3 }}
            ulimits = {{ nofile = {{ soft = 1024, hard = -1 }} }}
            [[site.ca]]
            file = "{}"
            registries = ["registry.lab:5000"]
            [site.proxy]
            http = "http://somebody:secret@proxy.example.org:3128"
            except = [".example.org"]
            "#,
            ca.display()
        );
        let file = folder.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        let given = config::load(Some(&file), Default::default()).unwrap();
        let address = "127.0.0.1:7777".parse().unwrap();
        // A folder whose name takes quoting.
        let trial = folder.path().join("tri\"al");
        let text = config_text(&trial, address, &given).unwrap();
        std::fs::write(&file, text).unwrap();
        let mut got = config::load(Some(&file), Default::default()).unwrap();
        assert_eq!(got.state_dir, trial.join("state"));
        assert_eq!(got.network.guest_network, given.network.guest_network);
        assert_eq!(got.hypervisor.accelerator, given.hypervisor.accelerator);
        assert!(got.site.reach_on_host.is_empty());
        got.site.reach_on_host = given.site.reach_on_host.clone();
        assert_eq!(got.site, given.site);
    }
}
