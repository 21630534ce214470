//! Who calls, and what for.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use remote_docker_api::LeaseId;
use serde::{Deserialize, Serialize};

use super::TokenHash;

/// Whoever has shown a good credential. In the extensions of every request that has passed `auth.rs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose leases are seen and made.
    pub project: Arc<str>,
    /// Which credential it was, in words that are no secret, such as `token ci-main`.
    pub name: Arc<str>,
    /// What it may be used for.
    pub scopes: Scopes,
    /// Which token of the book it was, if it was one.
    pub token: Option<TokenHash>,
    /// The only lease it may be used for, if it is of one.
    pub lease: Option<LeaseId>,
}

/// What a credential may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// To ask for leases, to keep them, to end them, and to see them.
    Lease,
    /// To see the project's leases and what happens to them.
    Read,
    /// To read `/metrics`, which is about all projects.
    Metrics,
}

impl Scope {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Lease, Self::Read, Self::Metrics];

    /// Its name on the wire and on command lines.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Read => "read",
            Self::Metrics => "metrics",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No scope is called so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no scope `{0}`; there are `lease`, `read` and `metrics`")]
pub struct UnknownScope(String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        known.ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scopes(BTreeSet<Scope>);

impl Scopes {
    /// All there are.
    #[must_use]
    pub fn all() -> Self {
        Self::of(Scope::ALL)
    }

    /// These.
    #[must_use]
    pub fn of(scopes: impl IntoIterator<Item = Scope>) -> Self {
        Self(scopes.into_iter().collect())
    }

    /// Whether they allow what `needed` stands for. Whoever may ask for leases may see them: a client
    /// that could not look how its lease is could not use it.
    #[must_use]
    pub fn allow(&self, needed: Scope) -> bool {
        self.0.contains(&needed) || (needed == Scope::Read && self.0.contains(&Scope::Lease))
    }

    /// Whether they allow nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = Scope> {
        self.0.iter().copied()
    }
}

impl fmt::Display for Scopes {
    /// `lease,read`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, scope) in self.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            write!(f, "{comma}{scope}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_allows_itself_and_lease_allows_to_read_what_it_made() {
        for had in Scope::ALL {
            for needed in Scope::ALL {
                let allowed = Scopes::of([had]).allow(needed);
                let sees_its_own = (had, needed) == (Scope::Lease, Scope::Read);
                assert_eq!(allowed, had == needed || sees_its_own, "{had} {needed}");
            }
        }
        assert!(Scope::ALL.iter().all(|scope| Scopes::all().allow(*scope)));
        assert!(
            !Scope::ALL
                .iter()
                .any(|scope| Scopes::default().allow(*scope))
        );
    }

    #[test]
    fn scopes_are_spelled_the_same_everywhere() {
        for scope in Scope::ALL {
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.as_str());
            assert_eq!(scope.as_str().parse(), Ok(scope));
        }
        assert_eq!(Scopes::all().to_string(), "lease,read,metrics");
        assert!("Lease".parse::<Scope>().is_err());
    }
}
