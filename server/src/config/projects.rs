//! Who else may ask for leases: a token each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::Faults;

/// The project of whoever has the main token, the file `token` in the state folder.
pub const DEFAULT_PROJECT: &str = "default";

/// Table `[projects.NAME]`. Leases of one project are not there for another.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectConfig {
    /// File that holds the project's token; drawn at the start if there is none.
    pub token_file: PathBuf,
}

pub(super) fn validate(
    projects: &BTreeMap<String, ProjectConfig>,
    state_dir: &Path,
    faults: &mut Faults,
) {
    let mut files = BTreeMap::from([(state_dir.join("token"), DEFAULT_PROJECT)]);
    for (name, project) in projects {
        let key = format!("projects.{name}");
        if name == DEFAULT_PROJECT {
            faults.add(
                key.clone(),
                "is the project of the token in the state folder: choose another name",
            );
        } else if !is_project_name(name) {
            faults.add(
                key.clone(),
                "is no name for a project: use 1 to 64 lower-case letters, digits, `-`, `_` and \
                 `.`",
            );
        }
        let file = &project.token_file;
        if !file.is_absolute() {
            faults.add(format!("{key}.token_file"), "must be an absolute path");
        } else if let Some(other) = files.insert(file.clone(), name) {
            faults.add(
                format!("{key}.token_file"),
                format!("is the token of project `{other}` already: each needs one of its own"),
            );
        }
    }
}

fn is_project_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
}
