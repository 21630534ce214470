//! Whether a token is good, and whose it is. Pure: time, keys and rules come in as arguments.

use std::collections::BTreeMap;

use super::json::Json;
use super::jwt;
use super::keys::Keys;
use super::rules::Rule;

/// How far the issuer's clock may be off, in seconds.
const LEEWAY_S: i64 = 60;
/// A name in the log need not be longer.
const MAX_NAME_CHARS: usize = 200;
/// How many claims are told of in a refusal.
const MAX_TOLD: usize = 40;

/// Why a token is not taken. What stands in it is told only of one whose signature is right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is too long to be looked at.
    #[error("the token is larger than 8 KiB")]
    TooLarge,
    /// It is no token.
    #[error("the token cannot be understood: {0}")]
    Malformed(&'static str),
    /// It is signed in a way that is not taken, or not with what its key is for.
    #[error("the token is not signed with RS256, PS256, ES256 or EdDSA as its issuer's key is for")]
    Algorithm,
    /// Nobody is known by the name of its issuer.
    #[error("the token's issuer is not one that this server was told of")]
    Issuer,
    /// Which of several keys signed it?
    #[error("the token does not name the key that it is signed with, and its issuer has several")]
    NoKeyNamed,
    /// The issuer has no such key.
    #[error("the token is signed with a key that its issuer does not have")]
    UnknownKey,
    /// The issuer has two keys of this name.
    #[error("the token's issuer has two keys of the name that it gives")]
    TwoKeys,
    /// The signature is wrong.
    #[error("the token's signature is wrong")]
    Signature,
    /// It is for somebody else.
    #[error("the token is for another audience; `aud` must have `{0}`")]
    Audience(String),
    /// A time is missing or is none.
    #[error("the token's `{0}` is missing or no time")]
    Time(&'static str),
    /// It is over.
    #[error("the token has expired: `exp` was {0} s ago")]
    Expired(i64),
    /// It is not good yet.
    #[error(
        "the token is not valid yet: `{claim}` is {seconds} s from now, by this server's clock"
    )]
    NotYet {
        /// By which claim.
        claim: &'static str,
        /// In how many seconds it is.
        seconds: i64,
    },
    /// It lives longer than tokens of jobs do.
    #[error("the token is older, or good for longer, than the {0} s of `oidc.max_age_s`")]
    TooOld(i64),
    /// No rule knows whose it is.
    #[error("no rule of this server gives such a job a project; the token has the claims {}", .0.join(", "))]
    NoRule(Vec<String>),
    /// The issuer's keys cannot be had.
    #[error("the keys of the token's issuer cannot be had now")]
    Unavailable,
}

/// What is asked of the tokens of one issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The issuer, exactly as it stands in `iss`.
    pub issuer: String,
    /// What must be in `aud`.
    pub audience: String,
    /// How long a token may have been there, in seconds.
    pub max_age_s: i64,
    /// Whose tokens are whose; the first that holds counts.
    pub rules: Vec<Rule>,
}

/// Whose token it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The project that a rule gave.
    pub project: String,
    /// Whom the issuer says it is, without control characters and not too long.
    pub subject: String,
}

/// Checks everything; `now` is wall time in seconds since 1970.
///
/// # Errors
/// Why it is not taken.
pub fn verify(token: &[u8], now: i64, terms: &Terms, keys: &Keys) -> Result<Verified, Refusal> {
    let parsed = jwt::parse(token)?;
    if issuer(&parsed.claims) != Some(&terms.issuer) {
        return Err(Refusal::Issuer);
    }
    keys.check(&parsed)?;
    judge(&parsed.claims, now, terms)
}

/// Whom the token says it is from.
pub(super) fn issuer(claims: &BTreeMap<String, Json>) -> Option<&str> {
    claims.get("iss")?.as_text()
}

/// Checks the claims of a token whose signature is right.
pub(super) fn judge(
    claims: &BTreeMap<String, Json>,
    now: i64,
    terms: &Terms,
) -> Result<Verified, Refusal> {
    let is_for_us = match claims.get("aud") {
        Some(Json::Text(audience)) => *audience == terms.audience,
        Some(Json::List(all)) => all.contains(&Json::Text(terms.audience.clone())),
        _ => false,
    };
    if !is_for_us {
        return Err(Refusal::Audience(terms.audience.clone()));
    }
    let expires = time(claims, "exp")?.ok_or(Refusal::Time("exp"))?;
    if now >= expires.saturating_add(LEEWAY_S) {
        return Err(Refusal::Expired(now.saturating_sub(expires)));
    }
    let begins = [("nbf", time(claims, "nbf")?), ("iat", time(claims, "iat")?)];
    for (claim, at) in begins {
        if let Some(at) = at
            && at > now.saturating_add(LEEWAY_S)
        {
            let seconds = at.saturating_sub(now);
            return Err(Refusal::NotYet { claim, seconds });
        }
    }
    // Without a birth, what counts is how long it will go on.
    let age = match time(claims, "iat")? {
        Some(issued) => now.saturating_sub(issued),
        None => expires.saturating_sub(now),
    };
    if age > terms.max_age_s.saturating_add(LEEWAY_S) {
        return Err(Refusal::TooOld(terms.max_age_s));
    }
    let Some(rule) = terms.rules.iter().find(|rule| rule.holds(claims)) else {
        let names = claims.keys().take(MAX_TOLD).map(|name| visible(name));
        return Err(Refusal::NoRule(names.collect()));
    };
    let subject = claims.get("sub").and_then(Json::as_text).unwrap_or("?");
    Ok(Verified {
        project: rule.project.clone(),
        subject: visible(subject),
    })
}

/// Seconds since 1970 (RFC 7519 has a number there, which need not be whole).
fn time(claims: &BTreeMap<String, Json>, name: &'static str) -> Result<Option<i64>, Refusal> {
    let Some(claim) = claims.get(name) else {
        return Ok(None);
    };
    let Json::Number(number) = claim else {
        return Err(Refusal::Time(name));
    };
    let whole = number.as_i64().or_else(|| {
        let seconds = number.as_f64().filter(|it| it.abs() < 1e15)?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it is far smaller than what fits"
        )]
        Some(seconds.floor() as i64)
    });
    whole.map(Some).ok_or(Refusal::Time(name))
}

fn visible(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(MAX_NAME_CHARS).map(shown).collect()
}
