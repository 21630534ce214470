//! What can be wrong with a configuration.

use std::fmt;
use std::path::PathBuf;

/// A value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Path of the key in the file, such as `lease.max_ttl_s`.
    pub key: String,
    /// What is wrong with it and what is allowed.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.key, self.what)
    }
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key or a value that is not ours.
    #[error("the configuration file {path} cannot be understood", path = path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and why; it quotes the line.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A path in a flag cannot be made absolute.
    #[error("cannot find out what the path `{path}` means", path = path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Values cannot be used.
    #[error("the configuration cannot be used:{}", list(.0))]
    Faults(Vec<Fault>),
}

fn list(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}

/// Collects faults, so that one start of the server shows them all.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, key: impl Into<String>, what: impl Into<String>) {
        self.0.push(Fault {
            key: key.into(),
            what: what.into(),
        });
    }

    pub(super) fn into_result(self) -> Result<(), ConfigError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::Faults(self.0))
        }
    }
}
