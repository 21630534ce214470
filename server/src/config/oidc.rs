//! CI systems whose jobs need no stored token.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;

use super::error::Faults;
use crate::oidc::{Pattern, Place, Rule, Source, Terms, https};

/// Issuers whose tokens everybody in the world can have: who says nothing more lets everybody in.
const OPEN_TO_ALL: [&str; 2] = [
    "https://token.actions.githubusercontent.com",
    "https://gitlab.com",
];

/// An entry of `[[oidc]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcConfig {
    /// Who signs the tokens: exactly what stands in their `iss`.
    issuer: String,
    /// What must stand in their `aud`.
    audience: String,
    /// The only authorities that stand for the issuer (PEM), instead of the system's.
    ca_file: Option<PathBuf>,
    /// Where its keys are, if it does not say so itself.
    jwks_url: Option<String>,
    /// A file of its keys, if it cannot be reached from here.
    jwks_file: Option<PathBuf>,
    /// How long a token may have been there, in seconds.
    #[serde(default = "default_max_age_s")]
    max_age_s: u32,
    /// Whose tokens are whose.
    #[serde(default)]
    rule: Vec<RuleConfig>,
}

/// An entry of `[[oidc.rule]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// The project of jobs that meet it.
    project: String,
    /// What their tokens must claim.
    claims: BTreeMap<String, ClaimConfig>,
}

/// What a claim must be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a text, a number, true or false, or a list of these"
)]
enum ClaimConfig {
    One(Scalar),
    OneOf(Vec<Scalar>),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a text, a number, true or false")]
enum Scalar {
    Bool(bool),
    Number(i64),
    Text(String),
}

fn default_max_age_s() -> u32 {
    86_400
}

impl OidcConfig {
    /// What is asked of its tokens, and where its keys are.
    #[must_use]
    pub fn terms(&self) -> (Terms, Source) {
        let rules = self.rule.iter().map(|rule| Rule {
            project: rule.project.clone(),
            claims: rule
                .claims
                .iter()
                .map(|(name, claim)| (name.clone(), claim.pattern()))
                .collect(),
        });
        let terms = Terms {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            max_age_s: self.max_age_s.into(),
            rules: rules.collect(),
        };
        let place = match (&self.jwks_file, &self.jwks_url) {
            (Some(file), _) => Place::File(file.clone()),
            (None, Some(url)) => Place::Url(url.clone()),
            (None, None) => Place::Discovered,
        };
        let ca_file = self.ca_file.clone();
        (terms, Source { place, ca_file })
    }

    fn validate(&self, is_project: &impl Fn(&str) -> bool, faults: &mut Faults) {
        let name = &self.issuer;
        if https(name).is_err() || name.contains('?') {
            faults.add(
                "oidc.issuer",
                format!(
                    "is `{name}`; it is the `iss` of the issuer's tokens, such as \
                     \"https://gitlab.example.com\""
                ),
            );
        }
        if self.audience.is_empty() {
            faults.add(
                "oidc.audience",
                format!(
                    "of `{name}` is empty; choose a name for this server, such as \"remote-docker\", and have \
                     tokens made out to it"
                ),
            );
        }
        if self
            .jwks_url
            .as_deref()
            .is_some_and(|url| https(url).is_err())
        {
            let what = format!("of `{name}` is no address that begins with https://");
            faults.add("oidc.jwks_url", what);
        }
        if self.jwks_url.is_some() && self.jwks_file.is_some() {
            let what = format!("of `{name}` stands beside `jwks_url`; keep one of the two");
            faults.add("oidc.jwks_file", what);
        }
        for (key, file) in [
            ("oidc.ca_file", &self.ca_file),
            ("oidc.jwks_file", &self.jwks_file),
        ] {
            if file.as_ref().is_some_and(|file| !file.is_absolute()) {
                faults.add(key, format!("of `{name}` must be an absolute path"));
            }
        }
        if !(60..=604_800).contains(&self.max_age_s) {
            let what = format!(
                "of `{name}` is {}; allowed are 60 to 604800 (a week)",
                self.max_age_s
            );
            faults.add("oidc.max_age_s", what);
        }
        if self.rule.is_empty() {
            faults.add(
                "oidc.rule",
                format!(
                    "is missing for `{name}`, so that none of its tokens is taken; such as [[oidc.rule]] with \
                     project = \"web\" and claims = {{ project_path = \"group/web\" }}"
                ),
            );
        }
        for rule in &self.rule {
            rule.validate(name, is_project, faults);
        }
    }
}

impl RuleConfig {
    fn validate(&self, issuer: &str, is_project: &impl Fn(&str) -> bool, faults: &mut Faults) {
        if !is_project(&self.project) {
            faults.add(
                "oidc.rule.project",
                format!(
                    "of `{issuer}` is `{}`, which is no project; write [projects.{0}] for it",
                    self.project
                ),
            );
        }
        let patterns = || self.claims.values().map(ClaimConfig::pattern);
        let takes_anybody = patterns().all(|pattern| pattern.takes_all());
        if self.claims.is_empty() || takes_anybody && OPEN_TO_ALL.contains(&issuer) {
            faults.add(
                "oidc.rule.claims",
                format!(
                    "for the project `{}` would let every job of `{issuer}` in; name what must hold, such as \
                     {{ repository = \"owner/name\" }}, or {{ sub = \"*\" }} for an issuer of your own",
                    self.project
                ),
            );
        }
        for (name, claim) in &self.claims {
            let Pattern(wanted) = claim.pattern();
            if wanted.is_empty() {
                let what = format!("`{name}` of `{issuer}` is an empty list, which nothing meets");
                faults.add("oidc.rule.claims", what);
            }
            for text in wanted {
                if text.trim_end_matches('*').contains('*') || text.ends_with("**") {
                    faults.add(
                        "oidc.rule.claims",
                        format!(
                            "`{name}` of `{issuer}` is `{text}`; a `*` may stand once, at the end: in the \
                             middle it would span parts that others choose"
                        ),
                    );
                }
            }
        }
    }
}

impl ClaimConfig {
    fn pattern(&self) -> Pattern {
        Pattern(match self {
            Self::One(scalar) => vec![scalar.text()],
            Self::OneOf(scalars) => scalars.iter().map(Scalar::text).collect(),
        })
    }
}

impl Scalar {
    fn text(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

pub(super) fn validate(
    issuers: &[OidcConfig],
    is_project: impl Fn(&str) -> bool,
    faults: &mut Faults,
) {
    let mut names = BTreeSet::new();
    for issuer in issuers {
        issuer.validate(&is_project, faults);
        if !names.insert(&issuer.issuer) {
            let what = format!("`{}` is there twice; put all rules into one", issuer.issuer);
            faults.add("oidc.issuer", what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError};

    fn faults(text: &str) -> Vec<String> {
        let config: Config = toml::from_str(text).unwrap();
        match config.validate() {
            Ok(()) => Vec::new(),
            Err(ConfigError::Faults(faults)) => faults.into_iter().map(|it| it.key).collect(),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn with_claims(issuer: &str, claims: &str) -> Vec<String> {
        faults(&format!(
            "oidc = [{{ issuer = '{issuer}', audience = 'a', \
             rule = [{{ project = 'default', claims = {claims} }}] }}]"
        ))
    }

    #[test]
    fn a_rule_that_would_let_everybody_in_is_refused() {
        let own = "https://gitlab.example.com";
        let github = "https://token.actions.githubusercontent.com";
        assert_eq!(with_claims(own, "{ sub = '*' }"), [""; 0]);
        assert_eq!(with_claims(own, "{}"), ["oidc.rule.claims"]);
        assert_eq!(with_claims(github, "{ sub = '*' }"), ["oidc.rule.claims"]);
        assert_eq!(
            with_claims(github, "{ repository = 'a/b', sub = '*' }"),
            [""; 0]
        );
        assert_eq!(
            with_claims(github, "{ repository = ['a/b', '*'] }"),
            ["oidc.rule.claims"]
        );
    }

    #[test]
    fn a_star_stands_at_the_end_only() {
        let own = "https://gitlab.example.com";
        for (claim, good) in [
            ("'a/*'", true),
            ("'*/a'", false),
            ("'a*b*'", false),
            ("'a**'", false),
        ] {
            let found = with_claims(own, &format!("{{ sub = {claim} }}"));
            assert_eq!(found.is_empty(), good, "{claim}: {found:?}");
        }
        let all = "{ a = true, b = 7, c = ['x', 'y*'], d = 'text' }";
        assert_eq!(with_claims(own, all), [""; 0]);
        assert_eq!(with_claims(own, "{ a = [] }"), ["oidc.rule.claims"]);
    }

    #[test]
    fn every_fault_of_an_issuer_is_told() {
        let text = "[[oidc]]\nissuer = 'http://a'\naudience = ''\nca_file = 'x'\njwks_url = 'http://b'\n\
                    jwks_file = 'y'\nmax_age_s = 1\n[[oidc]]\nissuer = 'http://a'\naudience = 'b'\n\
                    [[oidc.rule]]\nproject = 'nobody'\nclaims = { a = 1 }";
        let mut found = faults(text);
        found.sort();
        found.dedup();
        let expected = [
            "oidc.audience",
            "oidc.ca_file",
            "oidc.issuer",
            "oidc.jwks_file",
            "oidc.jwks_url",
            "oidc.max_age_s",
            "oidc.rule",
            "oidc.rule.project",
        ];
        assert_eq!(found, expected);
    }
}
