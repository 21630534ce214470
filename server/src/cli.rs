//! The command line: flags and their environment variables, which win over the configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod image;
mod token;

pub use image::{ImageArgs, ImageCommand};
pub use token::{CreateArgs, ListArgs, RevokeArgs, TokenArgs, TokenCommand};

use crate::config::{self, Config, ConfigError, LogFormat, Overrides};

/// Leases out virtual machines that run a Docker daemon each.
#[derive(Debug, Parser)]
#[command(
    name = "remote-dockerd",
    version,
    about,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do; without it, serve.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What to do it with.
    #[command(flatten)]
    pub settings: Settings,
}

/// What the program does.
#[derive(Debug, Clone, PartialEq, Eq, Default, Subcommand)]
pub enum Command {
    /// Run the server until it is told to stop (the default)
    #[default]
    Serve,
    /// Read the configuration, report every fault in it, and exit
    CheckConfig,
    /// Print the certificate of the authority behind the API's own, for clients: `--ca FILE` or
    /// REMOTE_DOCKER_CA
    Ca,
    /// Tell what a server needs of this host and does not find; changes nothing
    Doctor(DoctorArgs),
    /// Make, list and take back the tokens that open the API
    Token(TokenArgs),
    /// Take in, check and clear away guest images
    Image(ImageArgs),
}

/// Options of `doctor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct DoctorArgs {
    /// What to print
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: ReportFormat,
}

/// How findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ReportFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object
    Json,
}

/// Flags that every command takes.
#[derive(Debug, Args)]
pub struct Settings {
    /// Configuration file [default: /etc/remote-dockerd/config.toml, if it is there]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "REMOTE_DOCKERD_CONFIG"
    )]
    pub config: Option<PathBuf>,
    /// Address and port of the API, instead of `http.listen`
    #[arg(
        long,
        global = true,
        value_name = "IP:PORT",
        env = "REMOTE_DOCKERD_LISTEN"
    )]
    pub listen: Option<SocketAddr>,
    /// Folder of everything that outlives the server, instead of `state_dir`
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "REMOTE_DOCKERD_STATE_DIR"
    )]
    pub state_dir: Option<PathBuf>,
    /// Folder of the guest images, instead of `images_dir`
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "REMOTE_DOCKERD_IMAGES_DIR"
    )]
    pub images_dir: Option<PathBuf>,
    /// When told to stop, take no new leases, let those there are go on for at most this long, then end
    /// them and destroy all machines; instead of `shutdown.drain_s`
    #[arg(
        long = "drain",
        global = true,
        value_name = "SECONDS",
        env = "REMOTE_DOCKERD_DRAIN_S"
    )]
    pub drain_s: Option<u32>,
    /// What to log, instead of `log.filter`: a level, or such as `info,remote_dockerd::relay=debug`
    #[arg(long, global = true, value_name = "FILTER", env = "REMOTE_DOCKERD_LOG")]
    pub log: Option<String>,
    /// How to log, instead of `log.format`
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = "REMOTE_DOCKERD_LOG_FORMAT"
    )]
    pub log_format: Option<LogFormat>,
    /// Die at this place as by `kill -9`; see `failpoint.rs`
    #[cfg(feature = "failpoints")]
    #[arg(long, global = true, value_name = "NAME", hide = true)]
    pub failpoint: Option<String>,
}

impl Settings {
    /// The configuration that results from file and flags.
    ///
    /// # Errors
    /// See [`config::load`].
    pub fn load(self) -> Result<Config, ConfigError> {
        let (file, overrides) = self.split();
        config::load(file.as_deref(), overrides)
    }

    /// The file, if one is named, and what wins over it.
    #[must_use]
    pub fn split(self) -> (Option<PathBuf>, Overrides) {
        let overrides = Overrides {
            listen: self.listen,
            state_dir: self.state_dir,
            images_dir: self.images_dir,
            drain_s: self.drain_s,
            log_filter: self.log,
            log_format: self.log_format,
        };
        (self.config, overrides)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_help_text() {
        // The variables of whoever runs the tests must not show.
        let mut command = Cli::command()
            .term_width(100)
            .mut_args(|arg| arg.hide_env_values(true));
        insta::assert_snapshot!(command.render_long_help());
    }

    #[test]
    fn flags_are_taken_before_and_after_the_command_and_without_it() {
        for line in [
            vec!["remote-dockerd", "--listen", "127.0.0.1:1"],
            vec!["remote-dockerd", "--listen", "127.0.0.1:1", "serve"],
            vec!["remote-dockerd", "serve", "--listen", "127.0.0.1:1"],
        ] {
            let cli = Cli::try_parse_from(&line).unwrap();
            assert_eq!(cli.command.unwrap_or_default(), Command::Serve, "{line:?}");
            assert_eq!(cli.settings.listen, "127.0.0.1:1".parse().ok(), "{line:?}");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_relative_folders_are_made_absolute() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        let text = "state_dir = '/a'\nhttp.listen = '127.0.0.1:1'\nlog.format = 'json'";
        std::fs::write(&file, text).unwrap();
        let config = Cli::try_parse_from([
            "remote-dockerd",
            "--config",
            file.to_str().unwrap(),
            "--listen=[::1]:2",
            "--images-dir=some/images",
            "--log=debug",
        ])
        .unwrap()
        .settings
        .load()
        .unwrap();

        assert_eq!(config.http.listen, "[::1]:2".parse().unwrap());
        assert_eq!(config.state_dir, PathBuf::from("/a"));
        assert!(config.images_dir().is_absolute());
        assert!(config.images_dir().ends_with("some/images"));
        assert_eq!(config.log.filter, "debug");
        assert_eq!(config.log.format, LogFormat::Json);
    }
}
