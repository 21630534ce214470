//! The CLI under test, in an environment that holds nothing of the caller's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{bounded, succeed};

const LIMIT: Duration = Duration::from_secs(150);

/// The CLI, its server and its own folders.
#[derive(Debug, Clone)]
pub struct Cli {
    program: PathBuf,
    url: String,
    token: String,
    home: PathBuf,
}

impl Cli {
    pub(crate) fn new(program: PathBuf, url: &str, token: &str, home: PathBuf) -> Self {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir_all(&home).expect("a home folder");
        std::fs::set_permissions(&home, PermissionsExt::from_mode(0o700)).expect("its mode");
        Self {
            program,
            url: url.to_owned(),
            token: token.to_owned(),
            home,
        }
    }

    /// `setup-remote-docker ARGS`, not run yet.
    #[must_use]
    pub fn command<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = bounded(LIMIT, &self.program);
        self.environment(&mut command);
        command.args(args);
        command
    }

    /// The same without anything between, for tests that send it signals.
    #[must_use]
    pub fn bare<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = Command::new(&self.program);
        self.environment(&mut command);
        command.args(args);
        command
    }

    /// Sets a command's environment as it is for the program itself.
    pub fn environment(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", &self.home)
            .env("XDG_RUNTIME_DIR", &self.home)
            .env("REMOTE_DOCKER_URL", &self.url)
            .env("REMOTE_DOCKER_TOKEN", &self.token);
    }

    /// Runs `setup-remote-docker ARGS` and returns its stdout.
    ///
    /// # Panics
    /// When it fails.
    pub fn ok<const N: usize>(&self, args: [&str; N]) -> String {
        succeed(&mut self.command(args))
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Where its server is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What its server asks for.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Files of leases that are on this side, keys among them.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let folder = self.home.join("setup-remote-docker");
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// Folder of this CLI's files.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }
}
