//! Debian's `docker-registry`.

use std::fs::{self, File};
use std::net::{SocketAddrV4, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::World;
use crate::setting::registry_program;
use crate::wait::eventually;

/// What a registry is to be.
#[derive(Debug)]
pub struct RegistryPlan<'a> {
    /// Where it listens.
    pub at: SocketAddrV4,
    /// Where it runs; without, beside the server.
    pub world: Option<&'a World>,
    /// Its certificate and key; without, it speaks plain HTTP.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// A file of users and their passwords, by bcrypt; without, everybody may do everything.
    pub users: Option<PathBuf>,
    /// The registry that it mirrors, and the file of who is trusted to sign its certificate.
    pub mirrors: Option<(String, PathBuf)>,
}

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    log: PathBuf,
}

impl Registry {
    /// Starts one with its files in `folder`, and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn start(plan: &RegistryPlan<'_>, folder: &Path) -> Self {
        let mut config = serde_json::json!({
            "version": "0.1",
            "log": { "level": "info" },
            "storage": { "filesystem": { "rootdirectory": folder.join("data") } },
            "http": { "addr": plan.at.to_string() },
        });
        if let Some((certificate, key)) = &plan.tls {
            config["http"]["tls"] = serde_json::json!({ "certificate": certificate, "key": key });
        }
        if let Some(users) = &plan.users {
            config["auth"] = serde_json::json!({ "htpasswd": { "realm": "test", "path": users } });
        }
        if let Some((url, _)) = &plan.mirrors {
            config["proxy"] = serde_json::json!({ "remoteurl": url });
        }
        // JSON is YAML as well.
        Self::start_with(plan, &config.to_string(), folder)
    }

    /// The same with a configuration that somebody else has written; it has to say what the plan does.
    ///
    /// # Panics
    /// When it does not listen.
    #[must_use]
    pub fn start_with(plan: &RegistryPlan<'_>, config: &str, folder: &Path) -> Self {
        fs::create_dir_all(folder).expect("a folder");
        let mut command = Command::new(registry_program());
        command.env_clear();
        if let Some((_, trusted)) = &plan.mirrors {
            command.env("SSL_CERT_FILE", trusted);
        }
        let file = folder.join("config.yml");
        fs::write(&file, config).expect("a file");
        let log = folder.join("log");
        let output = File::create(&log).expect("a log");
        command
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("the log twice"))
            .stderr(output);
        if let Some(world) = plan.world {
            world.place(&mut command);
        }
        // SAFETY: prctl is a plain system call, which may be made between fork and exec.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        let mut registry = Self {
            child: command.spawn().expect("running docker-registry"),
            log,
        };
        let limit = Duration::from_secs(60);
        eventually("the registry listens", limit, || {
            let ended = registry.child.try_wait().expect("asking for its end");
            assert!(ended.is_none(), "the registry ended: {}", registry.log());
            TcpStream::connect_timeout(&plan.at.into(), Duration::from_secs(1))
        });
        registry
    }

    /// What it has said: a line for each request.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
