//! What the site wants of its Docker daemon, written where the daemon reads it.
//!
//! The image's own `daemon.json` is the ground; what the site says goes over it. It is written before the
//! daemon starts, and again at an activation that brings something else than the template was made with:
//! then the daemon reads it anew ([`reload`]). Nothing is written, and nobody is told, when the two say the
//! same, which is the ordinary case.

mod daemon_config;
pub(crate) mod files;
mod reload;
mod trust;

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use guest_protocol::{Live, Site};
use nix::unistd::Pid;
use serde_json::Value;

use crate::runtime;

/// Where the daemon looks for its configuration.
const DAEMON_CONFIG: &str = "/etc/docker/daemon.json";

/// What the guest has been given, and the ground that it lies on.
pub(crate) struct Settings {
    /// The image's own configuration of the daemon.
    ground: Value,
    site: Site,
}

impl Settings {
    /// Writes everything for a daemon that does not run yet.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub(crate) fn prepare(site: Site) -> anyhow::Result<Self> {
        let text = fs::read_to_string(DAEMON_CONFIG)
            .with_context(|| format!("cannot read {DAEMON_CONFIG}"))?;
        let ground = serde_json::from_str(&text)
            .with_context(|| format!("{DAEMON_CONFIG} of the image is no JSON"))?;
        let mut settings = Self {
            ground,
            site: Site::default(),
        };
        if site != settings.site {
            trust::replace(&settings.site.live.authorities, &site.live.authorities)?;
            if let Some(proxy) = &site.fixed.proxy {
                runtime::install(proxy)?;
            }
            settings.site = site;
            settings.write()?;
        }
        Ok(settings)
    }

    /// Has the running daemon go by `live` from now on.
    ///
    /// # Errors
    /// A file cannot be written, or the daemon does not take it.
    pub(crate) async fn change(&mut self, live: &Live, dockerd: Option<Pid>) -> anyhow::Result<()> {
        if *live == self.site.live {
            return Ok(());
        }
        trust::replace(&self.site.live.authorities, &live.authorities)?;
        self.site.live = live.clone();
        self.write()?;
        let Some(dockerd) = dockerd else {
            bail!("the Docker daemon does not run");
        };
        reload::reload(dockerd).await
    }

    fn write(&self) -> anyhow::Result<()> {
        let config = daemon_config::over(&self.ground, &self.site);
        let text = serde_json::to_string_pretty(&config).context("cannot write JSON")?;
        files::replace(Path::new(DAEMON_CONFIG), text.as_bytes())
    }
}
