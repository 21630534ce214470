//! The process's environment, read once. Nothing else in this crate looks at it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::exports::Shared;

/// What the variables say that mean something here. An empty variable counts as not set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    /// `REMOTE_DOCKER_URL`
    pub(crate) url: Option<String>,
    /// `REMOTE_DOCKER_CA`: a certificate in PEM form, or the path of one.
    pub(crate) ca: Option<String>,
    /// Whether `REMOTE_DOCKER_ALLOW_PLAINTEXT` is 1: what is sent may be read by others on the way.
    pub(crate) allow_plaintext: bool,
    /// `REMOTE_DOCKER_TOKEN`
    pub(crate) token: Option<Secret>,
    /// `REMOTE_DOCKER_LEASE`: the lease that `start` made for this shell.
    pub(crate) lease: Option<String>,
    /// `XDG_CONFIG_HOME`
    pub(crate) config_home: Option<PathBuf>,
    /// `HOME`
    pub(crate) home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`
    pub(crate) runtime_dir: Option<PathBuf>,
    /// `TMPDIR`
    pub(crate) temp_dir: Option<PathBuf>,
    /// `DOCKER_CERT_PATH`
    pub(crate) docker_cert_path: Option<PathBuf>,
    /// `TERM`: what this terminal is.
    pub(crate) term: Option<String>,
    /// `DOCKER_CONTEXT`
    pub(crate) docker_context: Option<OsString>,
    /// `DOCKER_API_VERSION`
    pub(crate) docker_api_version: Option<OsString>,
    /// Whether `TERM` is missing or `dumb`: such a terminal cannot draw a line anew.
    pub(crate) dumb_terminal: bool,
    /// `GITHUB_ENV`: the file that the steps of a GitHub job write variables to.
    pub(crate) github_env: Option<PathBuf>,
    /// Whether a variable names a proxy.
    pub(crate) has_proxy: bool,
    /// Whether this is a container of Docker's, by the mark that programs inside look for.
    pub(crate) in_container: bool,
    /// Variables that may have to be changed for a lease, in the order of [`Shared::ALL`].
    pub(crate) shared: [Option<String>; Shared::ALL.len()],
}

/// Where programs look for a proxy.
const PROXIES: [&str; 6] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Text that never shows in debug output.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Environment {
    /// Reads the variables of this process.
    pub(crate) fn read() -> Self {
        // What is not UTF-8 becomes text with replacement characters, which the parsers of the
        // URL, the token and the id refuse with their own words.
        let text = |name| variable(name).map(|value| value.to_string_lossy().into_owned());
        let path = |name| variable(name).map(PathBuf::from);
        Self {
            url: text("REMOTE_DOCKER_URL"),
            ca: text("REMOTE_DOCKER_CA"),
            allow_plaintext: text("REMOTE_DOCKER_ALLOW_PLAINTEXT").as_deref() == Some("1"),
            token: text("REMOTE_DOCKER_TOKEN").map(Secret),
            lease: text("REMOTE_DOCKER_LEASE"),
            config_home: path("XDG_CONFIG_HOME"),
            home: path("HOME"),
            runtime_dir: path("XDG_RUNTIME_DIR"),
            temp_dir: path("TMPDIR"),
            docker_cert_path: path("DOCKER_CERT_PATH"),
            term: text("TERM"),
            docker_context: variable("DOCKER_CONTEXT"),
            docker_api_version: variable("DOCKER_API_VERSION"),
            dumb_terminal: variable("TERM").is_none_or(|term| term == "dumb"),
            github_env: path("GITHUB_ENV"),
            has_proxy: PROXIES.into_iter().any(|name| variable(name).is_some()),
            in_container: Path::new("/.dockerenv").exists(),
            shared: Shared::ALL.map(|name| text(name.name())),
        }
    }

    /// The value of a variable that may have to be changed for a lease.
    pub(crate) fn shared(&self, name: Shared) -> Option<&str> {
        self.shared[name as usize].as_deref()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the environment is read"
)]
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
