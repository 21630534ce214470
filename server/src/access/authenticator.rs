//! From what a request shows to who calls.

use std::collections::BTreeSet;
use std::sync::Arc;

use remote_docker_api::LeaseId;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::book::{Token, TokenState};
use super::tokens::Tokens;
use super::{Caller, LeaseTokens, Scope, Scopes, TokenHash};
use crate::clock::Clock;
use crate::config::DEFAULT_PROJECT;
use crate::oidc::{self, Issuers};

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
    /// It is a token of a CI system, and is not taken.
    #[error(transparent)]
    Oidc(#[from] oidc::Refusal),
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
            Self::Unknown | Self::Oidc(_) | Self::Unreadable => None,
        }
    }
}

/// Everything that credentials are compared with.
pub struct Authenticator {
    operator: Caller,
    operators_token: TokenHash,
    tokens: Tokens,
    issuers: Issuers,
    leases: Option<LeaseTokens>,
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
                token: None,
                lease: None,
            },
            operators_token,
            tokens,
            issuers: Issuers::default(),
            leases: None,
            projects: projects.into_iter().collect(),
            clock,
        }
    }

    /// Takes tokens of these CI systems as well.
    #[must_use]
    pub fn with_issuers(self, issuers: Issuers) -> Self {
        Self { issuers, ..self }
    }

    /// Gives each lease a credential of its own, and takes it.
    #[must_use]
    pub fn with_leases(self, leases: LeaseTokens) -> Self {
        let leases = Some(leases);
        Self { leases, ..self }
    }

    /// The credential of a lease of this project, if leases have one.
    #[must_use]
    pub fn lease_token(&self, lease: LeaseId, project: &str) -> Option<String> {
        Some(self.leases.as_ref()?.token(lease, project))
    }

    /// Whoever has shown this, the value of `Authorization: Bearer`.
    ///
    /// # Errors
    /// When nobody is to be let in with it.
    pub async fn caller(&self, bearer: &[u8]) -> Result<Caller, Refusal> {
        if self.operators_token.matches(bearer) {
            return Ok(self.operator.clone());
        }
        let lease = self.leases.as_ref();
        if let Some((lease, project)) = lease.and_then(|leases| leases.read(bearer)) {
            return self.holder_of_lease(lease, project);
        }
        if !self.issuers.is_empty() && oidc::looks_like_jwt(bearer) {
            let (issuer, job) = self.issuers.check(bearer, &*self.clock).await?;
            return Ok(Caller {
                project: job.project.into(),
                name: format!("oidc {issuer} {}", job.subject).into(),
                scopes: Scopes::of([Scope::Lease, Scope::Read]),
                token: None,
                lease: None,
            });
        }
        self.holder_of_token(bearer)
    }

    fn holder_of_lease(&self, lease: LeaseId, project: String) -> Result<Caller, Refusal> {
        let name = format!("lease {lease}");
        if !self.has_project(&project) {
            return Err(Refusal::UnknownProject { name, project });
        }
        Ok(Caller {
            project: project.into(),
            name: name.into(),
            scopes: Scopes::of([Scope::Lease, Scope::Read]),
            token: None,
            lease: Some(lease),
        })
    }

    fn has_project(&self, project: &str) -> bool {
        project == DEFAULT_PROJECT || self.projects.contains(project)
    }

    fn holder_of_token(&self, shown: &[u8]) -> Result<Caller, Refusal> {
        let book = self.tokens.book().map_err(|_| Refusal::Unreadable)?;
        let token = book.find(shown).ok_or(Refusal::Unknown)?;
        self.is_good(token)?;
        let name = token.name.clone();
        let project = token.project.as_str();
        if !self.has_project(project) {
            let project = project.to_owned();
            return Err(Refusal::UnknownProject { name, project });
        }
        Ok(Caller {
            project: project.into(),
            name: format!("token {name}").into(),
            scopes: token.scopes.clone(),
            token: Some(token.sha256.clone()),
            lease: None,
        })
    }

    fn is_good(&self, token: &Token) -> Result<(), Refusal> {
        let name = token.name.clone();
        match (token.state(self.clock.wall()), token.expires_at) {
            (TokenState::Good, _) => Ok(()),
            (TokenState::Expired, Some(at)) => Err(Refusal::Expired { name, at }),
            (TokenState::Revoked | TokenState::Expired, _) => Err(Refusal::Revoked { name }),
        }
    }

    /// Whether a lease may be kept by its own credential that was asked for with this token.
    ///
    /// # Errors
    /// When the token is good no more, or the book has forgotten it.
    pub fn still_good(&self, asked_with: &TokenHash) -> Result<(), Refusal> {
        let book = self.tokens.book().map_err(|_| Refusal::Unreadable)?;
        let mut tokens = book.tokens().iter();
        let token = tokens.find(|token| token.sha256 == *asked_with);
        self.is_good(token.ok_or(Refusal::Unknown)?)
    }

    /// Why tokens are refused that may be good; `None` when all is well.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.tokens.book().err()
    }
}
