//! Why a command fails: the exit code and the hints for each kind of failure.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::client::ApiError;
use crate::config::ConfigError;
use crate::docker::DockerError;
use crate::exports::Unwritable;
use crate::keys::KeyError;
use crate::lease_dir::LeaseDirError;
use crate::ssh::SshError;

mod api;
mod ssh;

use api::{NOT_OUR_SERVER, TOKEN_HINT};

pub(crate) use api::in_options;

/// A command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    LeaseDir(#[from] LeaseDirError),
    #[error("cannot watch for signals")]
    Signals(#[source] io::Error),
    #[error("cannot start the program's event loop")]
    Runtime(#[source] io::Error),
    #[error("cannot write to standard output")]
    Stdout(#[source] io::Error),
    #[error("cannot write the variables to {}", path.display())]
    EnvFile { path: PathBuf, source: io::Error },
    #[error(
        "the variable GITHUB_ENV does not name a file, so there is nothing to write the variables to"
    )]
    NoGithubEnv,
    #[error("cannot write the manual pages to {}", folder.display())]
    Pages { folder: PathBuf, source: io::Error },
    #[error(transparent)]
    Docker(#[from] DockerError),
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
    #[error("{}", name(*.0))]
    Interrupted(Signal),
    #[error(transparent)]
    Ssh(#[from] SshError),
    #[error("the keys of the lease {0} are not on this machine")]
    NoKeys(remote_docker_api::LeaseId),
    #[error("cannot find out where this program is")]
    OwnPath(#[source] io::Error),
    #[error("the folder's path {} cannot stand in an SSH configuration", .0.display())]
    OddPath(PathBuf),
    #[error("no lease is named")]
    NoLease,
    #[error("{origin} is not a lease")]
    BadLeaseId {
        origin: &'static str,
        source: remote_docker_api::ParseIdError,
    },
    #[error("the label `{0}` is given twice")]
    TwiceLabelled(String),
    #[error("cannot start {}", program.display())]
    Spawn {
        program: OsString,
        source: io::Error,
    },
    #[error("cannot wait for the command")]
    Wait(#[source] io::Error),
    #[error("the lease {lease} of this idempotency key is over: {why}")]
    Over {
        lease: remote_docker_api::LeaseId,
        why: &'static str,
    },
    #[error("the lease is given back, but its machine was still there after {0} s")]
    StillThere(u64),
}

fn name(signal: Signal) -> String {
    format!("interrupted by {signal}")
}

impl CliError {
    /// The program's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NoLease | Self::NoKeys(_) | Self::BadLeaseId { .. } | Self::TwiceLabelled(_) => 2,
            Self::Config(ConfigError::NoToken) => 77,
            Self::Config(_) | Self::NoGithubEnv => 78,
            Self::Api(error) => api::exit_code(error),
            Self::Key(KeyError::Generate(_))
            | Self::Signals(_)
            | Self::Runtime(_)
            | Self::OwnPath(_)
            | Self::Wait(_) => 71,
            Self::Key(_) => 76,
            Self::LeaseDir(_)
            | Self::Stdout(_)
            | Self::EnvFile { .. }
            | Self::Pages { .. }
            | Self::OddPath(_)
            | Self::Unwritable(_) => 74,
            Self::Docker(_) => 73,
            Self::Interrupted(signal) => signal_exit_code(*signal as i32),
            Self::Spawn { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Spawn { .. } => 126,
            Self::Ssh(error) => ssh::exit_code(error),
            Self::StillThere(_) => 69,
            Self::Over { .. } => 65,
        }
    }

    /// What to do about it, one line each.
    pub(crate) fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Config(ConfigError::NoToken) => TOKEN_HINT,
            Self::Config(ConfigError::Url { .. }) => {
                "an address looks like http://127.0.0.1:7420; set REMOTE_DOCKER_URL or --url"
            }
            Self::Config(ConfigError::Plaintext(_)) => {
                "write https:// in REMOTE_DOCKER_URL or --url if the server speaks TLS, or bring it to a loopback \
                 address with `ssh -L`; REMOTE_DOCKER_ALLOW_PLAINTEXT=1 lets it be, where something else \
                 protects the way"
            }
            Self::Config(ConfigError::Ca { .. }) => {
                "`remote-dockerd ca` on the server's host prints it; --ca and REMOTE_DOCKER_CA take the path of \
                 the file, the variable also the certificate itself"
            }
            Self::Config(ConfigError::Read { .. }) => {
                "is the path right, and may this user read it? --config and --token-file name others"
            }
            Self::Config(ConfigError::Syntax { .. }) => {
                "it is TOML with the keys url, ca, allow_plaintext, token or token_file, engine, size, ttl, wait, timeout"
            }
            Self::Config(ConfigError::TwoTokens { .. }) => "keep one of the two",
            Self::Config(ConfigError::BadToken { .. }) => {
                "copy it anew from the server's file, whole and without blanks"
            }
            Self::Api(error) => return api::hints(error),
            Self::Key(KeyError::NotACertificate(_) | KeyError::OtherKey) => NOT_OUR_SERVER,
            Self::LeaseDir(LeaseDirError::Unsafe { .. }) => {
                "remove it, or set XDG_RUNTIME_DIR or TMPDIR to a folder of your own"
            }
            Self::LeaseDir(LeaseDirError::NotText { .. }) => {
                "set XDG_RUNTIME_DIR or TMPDIR to a folder with a plainer name"
            }
            Self::LeaseDir(LeaseDirError::Make { .. } | LeaseDirError::Write { .. }) => {
                "keys are kept below XDG_RUNTIME_DIR or, without it, TMPDIR; there must be room"
            }
            Self::LeaseDir(LeaseDirError::Remove { .. }) => {
                "only the program's own files were removed; remove the rest yourself"
            }
            Self::Docker(error) if error.is_missing() => {
                "install one, such as Debian's docker-cli; no daemon is needed"
            }
            Self::Docker(DockerError::Exists { .. }) => {
                "choose another name, or remove that one with `docker context rm` or `docker buildx rm`"
            }
            Self::Docker(_) => "`setup-remote-docker doctor` tells about the docker CLI",
            Self::EnvFile { .. } => "--env-file names another file",
            Self::NoGithubEnv => {
                "a GitHub job sets it for each step; elsewhere name a file with --env-file, or choose \
                 another --format"
            }
            Self::Unwritable(_) => {
                "set XDG_RUNTIME_DIR or TMPDIR to a folder with a plainer name, or choose another \
                 --format"
            }
            Self::OddPath(_) => "set XDG_RUNTIME_DIR or TMPDIR to a folder with a plainer name",
            Self::NoLease => {
                "name one (`setup-remote-docker list` shows them), or set REMOTE_DOCKER_LEASE"
            }
            Self::BadLeaseId { .. } => "`setup-remote-docker list` shows the leases",
            Self::Over { .. } => "choose a new --idempotency-key for a new machine",
            Self::NoKeys(_) => {
                "log in from where the machine was leased, as the same user: only `start` and `run` write \
                 the keys, and `stop` removes them"
            }
            Self::Ssh(error) => ssh::hint(error),
            Self::StillThere(_) => "the server goes on with it; its log says what is in the way",
            Self::TwiceLabelled(_) => "give each name one value",
            Self::Stdout(_) => "is there room on the disk, and does somebody read the output?",
            Self::Pages { .. } => "name a folder that can be made or written to",
            Self::Spawn { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "is it installed, and its folder in PATH?"
            }
            Self::Spawn { .. } => "is it a program for this machine that this user may execute?",
            Self::Key(KeyError::Generate(_))
            | Self::Signals(_)
            | Self::Runtime(_)
            | Self::OwnPath(_)
            | Self::Wait(_) => {
                "this machine has run out of something: see `ulimit -a`, memory and processes"
            }
            // Whoever sent the signal knows what to do.
            Self::Interrupted(_) => return Vec::new(),
        };
        vec![hint.to_owned()]
    }
}

/// What a shell reports for a program that a signal ended.
pub(crate) fn signal_exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(255)
}
