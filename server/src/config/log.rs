//! Logging.

use serde::Deserialize;

use super::error::Faults;
use crate::telemetry::parse_filter;

/// Table `[log]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// What is logged: a level, or a level for each room, such as
    /// `info,remote_dockerd::relay=debug`.
    pub filter: String,
    /// How it is written.
    pub format: LogFormat,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

impl LogConfig {
    pub(super) fn validate(&self, faults: &mut Faults) {
        if let Err(error) = parse_filter(&self.filter) {
            faults.add(
                "log.filter",
                format!(
                    "is `{}`, which is no filter ({error}): use a level (error, warn, info, debug, \
                     trace), or `info,remote_dockerd::relay=debug`",
                    self.filter
                ),
            );
        }
    }
}
