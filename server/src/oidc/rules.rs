//! Which project a job belongs to, by what its token says of it.

use std::collections::BTreeMap;

use super::json::Json;

/// What a claim must be: one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(pub Vec<String>);

/// All that must hold of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The project of those who meet it.
    pub project: String,
    /// By the name of the claim.
    pub claims: BTreeMap<String, Pattern>,
}

impl Rule {
    /// Whether all of it holds. One that asks for nothing is met by nobody: a mistake must not let
    /// everybody in.
    pub(super) fn holds(&self, claims: &BTreeMap<String, Json>) -> bool {
        !self.claims.is_empty()
            && self
                .claims
                .iter()
                .all(|(name, pattern)| claims.get(name).is_some_and(|claim| pattern.matches(claim)))
    }
}

impl Pattern {
    /// Of a list one element is enough. Numbers and truth values are compared as they are written in JSON.
    fn matches(&self, claim: &Json) -> bool {
        match claim {
            Json::Text(text) => self.takes(text),
            Json::Bool(value) => self.takes(&value.to_string()),
            Json::Number(number) => self.takes(&number.to_string()),
            Json::List(elements) => elements
                .iter()
                .any(|element| !matches!(element, Json::List(_)) && self.matches(element)),
            Json::Null | Json::Object(_) => false,
        }
    }

    /// A `*` at the end stands for any rest. Elsewhere it stands for itself: in the middle, it would span
    /// parts that others may choose, such as the name of a branch.
    fn takes(&self, text: &str) -> bool {
        self.0.iter().any(|wanted| match wanted.strip_suffix('*') {
            Some(begin) => text.starts_with(begin),
            None => text == wanted,
        })
    }

    /// Whether anything would do.
    #[must_use]
    pub fn takes_all(&self) -> bool {
        self.0.iter().any(|wanted| wanted == "*")
    }
}
