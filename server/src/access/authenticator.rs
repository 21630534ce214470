//! From what a request shows to who calls.

use std::collections::BTreeSet;
use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::book::TokenState;
use super::tokens::Tokens;
use super::{Caller, Scopes, TokenHash};
use crate::clock::Clock;
use crate::config::DEFAULT_PROJECT;

/// Why nobody is let in with what was shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing that is known here.
    #[error("the token is not good here")]
    Unknown,
    /// Its time is over. Only whoever has it is told so, as with the following ones.
    #[error("the token `{name}` was good until {}", text(*.at))]
    Expired {
        /// Which.
        name: String,
        /// Since when.
        at: OffsetDateTime,
    },
    /// It was taken back.
    #[error("the token `{name}` was taken back")]
    Revoked {
        /// Which.
        name: String,
    },
    /// The configuration has no such project any more.
    #[error(
        "the token `{name}` is of the project `{project}`, which the server does not have any more"
    )]
    UnknownProject {
        /// Which.
        name: String,
        /// Whose it was.
        project: String,
    },
    /// Whether it is good cannot be told now.
    #[error("the server cannot read its tokens")]
    Unreadable,
}

fn text(moment: OffsetDateTime) -> String {
    moment.format(&Rfc3339).unwrap_or_default()
}

impl Refusal {
    /// Which credential it is about, where one is known.
    #[must_use]
    pub fn credential(&self) -> Option<String> {
        match self {
            Self::Expired { name, .. }
            | Self::Revoked { name }
            | Self::UnknownProject { name, .. } => Some(format!("token {name}")),
            Self::Unknown | Self::Unreadable => None,
        }
    }
}

/// Everything that credentials are compared with.
pub struct Authenticator {
    operator: Caller,
    operators_token: TokenHash,
    tokens: Tokens,
    projects: BTreeSet<String>,
    clock: Arc<dyn Clock>,
}

impl Authenticator {
    /// One that knows the operator's own token, these, and the projects that there are beside the
    /// default.
    #[must_use]
    pub fn new(
        operators_token: TokenHash,
        tokens: Tokens,
        projects: impl IntoIterator<Item = String>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            operator: Caller {
                project: DEFAULT_PROJECT.into(),
                name: "operator".into(),
                scopes: Scopes::all(),
            },
            operators_token,
            tokens,
            projects: projects.into_iter().collect(),
            clock,
        }
    }

    /// Whoever has shown this, the value of `Authorization: Bearer`.
    ///
    /// # Errors
    /// When nobody is to be let in with it.
    pub async fn caller(&self, bearer: &[u8]) -> Result<Caller, Refusal> {
        if self.operators_token.matches(bearer) {
            return Ok(self.operator.clone());
        }
        self.holder_of_token(bearer)
    }

    fn holder_of_token(&self, shown: &[u8]) -> Result<Caller, Refusal> {
        let book = self.tokens.book().map_err(|_| Refusal::Unreadable)?;
        let token = book.find(shown).ok_or(Refusal::Unknown)?;
        let name = token.name.clone();
        match (token.state(self.clock.wall()), token.expires_at) {
            (TokenState::Good, _) => {}
            (TokenState::Expired, Some(at)) => return Err(Refusal::Expired { name, at }),
            (TokenState::Revoked | TokenState::Expired, _) => {
                return Err(Refusal::Revoked { name });
            }
        }
        let project = token.project.as_str();
        if project != DEFAULT_PROJECT && !self.projects.contains(project) {
            let project = project.to_owned();
            return Err(Refusal::UnknownProject { name, project });
        }
        Ok(Caller {
            project: project.into(),
            name: format!("token {name}").into(),
            scopes: token.scopes.clone(),
        })
    }

    /// Why tokens are refused that may be good; `None` when all is well.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.tokens.book().err()
    }
}
