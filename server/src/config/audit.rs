//! The audit log.

use std::path::PathBuf;

use serde::Deserialize;

use super::error::Faults;

/// Table `[audit]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// Its file, if it is not `audit.jsonl` in the state folder.
    pub file: Option<PathBuf>,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            file: None,
        }
    }
}

impl AuditConfig {
    pub(super) fn validate(&self, faults: &mut Faults) {
        if self.file.as_ref().is_some_and(|file| !file.is_absolute()) {
            faults.add("audit.file", "must be an absolute path");
        }
    }
}
