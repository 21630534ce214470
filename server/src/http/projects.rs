//! Whose a request is: each project has a token of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use subtle::{Choice, ConditionallySelectable};

use super::token::{TokenError, TokenHash, load_or_create_token};
use crate::config::{DEFAULT_PROJECT, ProjectConfig};

/// The project of the caller, in the extensions of every request that has passed `auth.rs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Project(pub(super) Arc<str>);

/// The projects and what their tokens are known by.
#[derive(Debug, Clone)]
pub struct Projects(Vec<(Arc<str>, TokenHash)>);

/// The projects' tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProjectsError {
    /// Tokens cannot be had; all of them are named.
    #[error("tokens of projects cannot be used:{}", list(.0))]
    Tokens(Vec<(String, TokenError)>),
    /// Whoever has that token would be of both.
    #[error(
        "the projects `{0}` and `{1}` have the same token, so they cannot be told apart: delete the \
         token file of one of them to get a new one at the next start"
    )]
    SameToken(String, String),
}

fn list(errors: &[(String, TokenError)]) -> String {
    let line = |(name, error): &(String, TokenError)| {
        let cause = std::error::Error::source(error);
        let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
        format!("\n  `projects.{name}`: {error}{cause}")
    };
    errors.iter().map(line).collect()
}

impl Projects {
    /// Only the default project, whose token this is.
    #[must_use]
    pub fn only_default(token: TokenHash) -> Self {
        Self(vec![(DEFAULT_PROJECT.into(), token)])
    }

    /// The default project and those of the configuration. A token file that is not there is made,
    /// as for the default.
    ///
    /// # Errors
    /// When a token file cannot be used, with all of them at once, or two projects have one token.
    pub fn load(
        default: TokenHash,
        projects: &BTreeMap<String, ProjectConfig>,
    ) -> Result<Self, ProjectsError> {
        let mut loaded = Self::only_default(default);
        let mut errors = Vec::new();
        for (name, project) in projects {
            match load_or_create_token(&project.token_file) {
                Ok(token) => {
                    if let Some((other, _)) = loaded.0.iter().find(|(_, known)| *known == token) {
                        return Err(ProjectsError::SameToken(other.to_string(), name.clone()));
                    }
                    loaded.0.push((name.as_str().into(), token));
                }
                Err(error) => errors.push((name.clone(), error)),
            }
        }
        if errors.is_empty() {
            Ok(loaded)
        } else {
            Err(ProjectsError::Tokens(errors))
        }
    }

    /// The project whose token this is. All tokens are compared whatever the first ones say, so that
    /// the time it takes tells nothing.
    pub(super) fn of(&self, token: &[u8]) -> Option<Project> {
        let shown = TokenHash::of(token);
        let mut place = u32::MAX;
        for (number, (_, known)) in (0..).zip(&self.0) {
            let same: Choice = known.same(&shown);
            place.conditional_assign(&number, same);
        }
        let (name, _) = self.0.get(usize::try_from(place).ok()?)?;
        Some(Project(name.clone()))
    }
}
