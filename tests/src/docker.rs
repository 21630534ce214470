//! The docker CLI, in an environment that holds nothing of the caller's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{bounded, succeed};
use crate::setting::Setting;
use crate::tree;

/// Each call may take so long; the slowest moves 200 MB through an emulated machine.
const LIMIT: Duration = Duration::from_secs(150);

/// Name of the image that [`Docker::import_busybox`] makes.
pub const BUSYBOX: &str = "busybox";

/// The docker CLI and where it points.
#[derive(Debug, Clone)]
pub struct Docker {
    program: PathBuf,
    config: PathBuf,
    host: Option<(String, PathBuf)>,
}

impl Docker {
    /// A docker CLI that points nowhere yet; its configuration is kept below `folder`.
    ///
    /// # Panics
    /// When the configuration cannot be written.
    #[must_use]
    pub fn new(setting: &Setting, folder: &Path) -> Self {
        let config = folder.join("docker-config");
        std::fs::create_dir_all(&config).expect("a folder for docker's configuration");
        let content = serde_json::json!({ "cliPluginsExtraDirs": [setting.docker_plugins()] });
        std::fs::write(config.join("config.json"), content.to_string())
            .expect("docker's configuration");
        Self {
            program: setting.docker(),
            config,
            host: None,
        }
    }

    /// The same, pointing at this daemon with the certificates in this folder.
    #[must_use]
    pub fn at(&self, host: &str, certificates: &Path) -> Self {
        Self {
            host: Some((host.to_owned(), certificates.to_owned())),
            ..self.clone()
        }
    }

    /// `docker ARGS`, not run yet.
    #[must_use]
    pub fn command<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = bounded(LIMIT, &self.program);
        command.args(args);
        self.environment(&mut command);
        command
    }

    /// Sets a command's environment as it is for docker itself.
    pub fn environment(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", &self.config)
            .env("DOCKER_CONFIG", &self.config)
            .env("BUILDX_CONFIG", self.config.join("buildx"));
        if let Some((host, certificates)) = &self.host {
            command
                .env("DOCKER_HOST", host)
                .env("DOCKER_TLS_VERIFY", "1")
                .env("DOCKER_CERT_PATH", certificates);
        }
    }

    /// Runs `docker ARGS` and returns its stdout.
    ///
    /// # Panics
    /// When it fails.
    pub fn ok<const N: usize>(&self, args: [&str; N]) -> String {
        succeed(&mut self.command(args))
    }

    /// Runs a program of [`BUSYBOX`] in a container and returns its stdout.
    ///
    /// # Panics
    /// When it fails.
    pub fn busybox<const N: usize>(&self, options: &[&str], program: [&str; N]) -> String {
        let mut command = self.command(["run", "--rm", "--network=none"]);
        command.args(options).arg(BUSYBOX).args(program);
        succeed(&mut command)
    }

    /// The same in the machine's own network, where its address is seen.
    ///
    /// # Panics
    /// When it fails.
    pub fn busybox_on_the_host_network<const N: usize>(&self, program: [&str; N]) -> String {
        let mut command = self.command(["run", "--rm", "--network=host", BUSYBOX]);
        succeed(command.args(program))
    }

    /// Makes the image [`BUSYBOX`] on the machine, from the host's own static busybox: no registry can
    /// be reached.
    ///
    /// # Panics
    /// When there is none, or docker refuses it.
    pub fn import_busybox(&self) {
        let archive = self.config.join("busybox.tar");
        if !archive.exists() {
            let root = self.config.join("busybox-tree");
            tree::write_busybox(&root);
            let mut tar = bounded(LIMIT, "tar");
            succeed(tar.arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."));
        }
        let archive = archive.to_str().expect("a path in UTF-8");
        self.ok(["import", archive, BUSYBOX]);
    }
}
