//! What an operator may choose: one file of TOML, one struct for each concern, and a few flags that
//! win over the file. Unknown keys are refused, so that a misspelled one is not silently the default.
//!
//! [`load`] is the only reader of the file; what the environment configures is read by the flags (`cli.rs`).

mod audit;
mod control_groups;
mod egress;
mod environment;
mod error;
mod hypervisor;
mod lease;
mod listen;
mod log;
mod machine_limits;
mod machines;
mod network;
mod oidc;
mod pool;
mod projects;
mod relay;
mod shutdown;
mod site;

#[cfg(test)]
mod tests;

pub use audit::AuditConfig;
pub use control_groups::ControlGroupsConfig;
pub use egress::{AllowRule, Cidr, EgressOffer, Ports, Protocol};
pub use environment::proxy_environment;
pub use error::{ConfigError, Fault};
pub use hypervisor::{AcceleratorChoice, HypervisorConfig, QemuUids};
pub use lease::LeaseConfig;
pub use listen::{HttpConfig, TlsConfig};
pub use log::{LogConfig, LogFormat};
pub use machine_limits::MachineLimits;
pub use machines::{LimitsConfig, MachinesConfig, SizeConfig};
pub use network::{GuestNetwork, NetworkConfig, Uplink};
pub use oidc::{OidcConfig, RuleConfig};
pub use pool::{PoolConfig, ScheduleConfig};
pub use projects::{DEFAULT_PROJECT, ProjectConfig};
pub use relay::{PortRange, RelayConfig};
pub use shutdown::ShutdownConfig;
pub use site::{CONSEQUENCE, CaConfig, CaError, Ending, SiteConfig};

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use error::Faults;

/// Where the file is looked for when no flag names one. It need not exist.
pub const DEFAULT_PATH: &str = "/etc/remote-dockerd/config.toml";

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Folder of everything that outlives the server: database, token, templates, VMs.
    pub state_dir: PathBuf,
    /// Folder of the guest images; [`Self::images_dir`] knows the default.
    images_dir: Option<PathBuf>,
    /// Engine of requests that name none; without it, such requests get the newest.
    pub default_engine: Option<String>,
    /// Further names of engines, such as `edge` or `previous`. `default` is always the default engine.
    pub engine_aliases: BTreeMap<String, String>,
    /// Size of requests that name none.
    pub default_size: String,
    /// The machine sizes on offer, by name. A file that names any replaces the built-in ones.
    pub sizes: BTreeMap<String, SizeConfig>,
    /// The API's listener.
    pub http: HttpConfig,
    /// The relay's listeners.
    pub relay: RelayConfig,
    /// How long leases last and requests wait.
    pub lease: LeaseConfig,
    /// Machines that are kept ready.
    pub pool: Vec<PoolConfig>,
    /// Who may ask for leases, by name. The project `default` is there in any case.
    pub projects: BTreeMap<String, ProjectConfig>,
    /// CI systems whose jobs need no stored token.
    pub oidc: Vec<OidcConfig>,
    /// How much of the host may be used.
    pub limits: LimitsConfig,
    /// How machines are kept.
    pub machines: MachinesConfig,
    /// How VMs are run.
    pub hypervisor: HypervisorConfig,
    /// The VMs' network.
    pub network: NetworkConfig,
    /// What the site has of its own.
    pub site: SiteConfig,
    /// What becomes of leases when the server stops.
    pub shutdown: ShutdownConfig,
    /// The audit log.
    pub audit: AuditConfig,
    /// Logging.
    pub log: LogConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/remote-dockerd".into(),
            images_dir: None,
            default_engine: None,
            engine_aliases: BTreeMap::new(),
            default_size: "small".to_owned(),
            sizes: machines::default_sizes(),
            http: HttpConfig::default(),
            relay: RelayConfig::default(),
            lease: LeaseConfig::default(),
            pool: Vec::new(),
            projects: BTreeMap::new(),
            oidc: Vec::new(),
            limits: LimitsConfig::default(),
            machines: MachinesConfig::default(),
            hypervisor: HypervisorConfig::default(),
            network: NetworkConfig::default(),
            site: SiteConfig::default(),
            shutdown: ShutdownConfig::default(),
            audit: AuditConfig::default(),
            log: LogConfig::default(),
        }
    }
}

/// What flags and the environment put in the place of the file's values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// For `http.listen`.
    pub listen: Option<SocketAddr>,
    /// For `state_dir`; relative to the working directory.
    pub state_dir: Option<PathBuf>,
    /// For `images_dir`; relative to the working directory.
    pub images_dir: Option<PathBuf>,
    /// For `shutdown.drain_s`.
    pub drain_s: Option<u32>,
    /// For `log.filter`.
    pub log_filter: Option<String>,
    /// For `log.format`.
    pub log_format: Option<LogFormat>,
}

/// Reads the configuration: built-in values, then the file, then the flags; then checks the whole.
/// Without `file`, [`DEFAULT_PATH`] is read if it is there.
///
/// # Errors
/// When the file cannot be read or is no TOML of ours, and when any value cannot be used: then with
/// every such value at once.
pub fn load(file: Option<&Path>, overrides: Overrides) -> Result<Config, ConfigError> {
    let path = file.unwrap_or(Path::new(DEFAULT_PATH));
    let mut config = match std::fs::read_to_string(path) {
        Ok(text) => Config::from_toml(&text, path)?,
        Err(error) if error.kind() == ErrorKind::NotFound && file.is_none() => Config::default(),
        Err(source) => {
            return Err(ConfigError::Unreadable {
                path: path.to_owned(),
                source,
            });
        }
    };
    config.override_with(overrides)?;
    config.validate()?;
    Ok(config)
}

/// What there is without a file that can be used: built-in values and flags, not checked.
#[must_use]
pub fn without_file(overrides: Overrides) -> Config {
    let mut config = Config::default();
    // A path that means nothing keeps its built-in value, as all values of the file do.
    let _ = config.override_with(overrides);
    config
}

impl Config {
    /// Reads a file's text; `path` is only for messages. Values are not checked yet.
    ///
    /// # Errors
    /// When it is no TOML, or has keys that are none of ours.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|source| ConfigError::Syntax {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    fn override_with(&mut self, overrides: Overrides) -> Result<(), ConfigError> {
        let absolute = |path: PathBuf| {
            std::path::absolute(&path).map_err(|source| ConfigError::Path { path, source })
        };
        if let Some(listen) = overrides.listen {
            self.http.listen = listen;
        }
        if let Some(folder) = overrides.state_dir {
            self.state_dir = absolute(folder)?;
        }
        if let Some(folder) = overrides.images_dir {
            self.images_dir = Some(absolute(folder)?);
        }
        if overrides.drain_s.is_some() {
            self.shutdown.drain_s = overrides.drain_s;
        }
        if let Some(filter) = overrides.log_filter {
            self.log.filter = filter;
        }
        if let Some(format) = overrides.log_format {
            self.log.format = format;
        }
        Ok(())
    }

    /// Folder of the guest images: `images` in the state folder unless the file says otherwise.
    #[must_use]
    pub fn images_dir(&self) -> PathBuf {
        self.images_dir
            .clone()
            .unwrap_or_else(|| self.state_dir.join("images"))
    }

    /// File of the audit log; `None` when there is none.
    #[must_use]
    pub fn audit_file(&self) -> Option<PathBuf> {
        let file = self.audit.file.clone();
        let file = file.unwrap_or_else(|| self.state_dir.join("audit.jsonl"));
        self.audit.enabled.then_some(file)
    }

    /// Checks every value that its type alone does not make usable.
    ///
    /// # Errors
    /// With all faults at once.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut faults = Faults::default();
        for (key, folder) in [
            ("state_dir", Some(&self.state_dir)),
            ("images_dir", self.images_dir.as_ref()),
        ] {
            if folder.is_some_and(|folder| !folder.is_absolute()) {
                faults.add(key, "must be an absolute path");
            }
        }
        if let Some(engine) = &self.default_engine
            && engine.is_empty()
        {
            faults.add(
                "default_engine",
                "must not be empty; leave it out for the newest engine",
            );
        }
        machines::validate_aliases(&self.engine_aliases, &mut faults);
        machines::validate_sizes(&self.sizes, &self.default_size, &self.limits, &mut faults);
        self.http.validate(&mut faults);
        self.relay.validate(self.http.listen, &mut faults);
        self.lease.validate(&mut faults);
        let offer = self.network.egress_offer();
        projects::validate(
            &self.projects,
            &self.sizes,
            &self.lease,
            &offer,
            &mut faults,
        );
        let is_project = |name: &str| name == DEFAULT_PROJECT || self.projects.contains_key(name);
        oidc::validate(&self.oidc, is_project, &mut faults);
        self.limits.validate(&mut faults);
        self.machines.validate(&mut faults);
        pool::validate(&self.pool, self.limits.max_vms, &mut faults);
        self.hypervisor.validate(self.limits.max_vms, &mut faults);
        self.network.validate(&mut faults);
        self.site.validate(&self.network, &mut faults);
        self.shutdown.validate(&mut faults);
        self.audit.validate(&mut faults);
        self.log.validate(&mut faults);
        faults.into_result()
    }
}
