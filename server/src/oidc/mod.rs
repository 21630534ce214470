//! Credentials that nobody has to store: tokens that a CI system signs for each job (OpenID Connect), and rules
//! that tell from what such a token says to which project the job belongs.
//!
//! [`verify()`] is pure and decides everything: time, keys and rules come in as arguments. [`Issuers`] holds the
//! keys of the issuers ([`cache`] says when they are fetched anew, [`fetch`] does it), so that a request
//! waits for an issuer only when its token names a key that was never seen.
//!
//! Signatures are checked by ring, which TLS has brought along. What surrounds them is read here: the form is
//! small, and this way a token that says something twice is refused instead of being read in one of two ways.

mod cache;
mod fetch;
mod json;
mod jwt;
mod keys;
mod proxy;
mod rules;
#[cfg(test)]
pub(crate) mod tests;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use cache::Cache;
use fetch::Fetcher;

pub(crate) use fetch::https;
pub use fetch::{FetchError, Place, Source};
pub use jwt::{MAX_BYTES, looks_like_jwt};
pub use keys::Keys;
pub use proxy::{Proxies, ProxyError};
pub use rules::{Pattern, Rule};
pub use verify::{Refusal, Terms, Verified, verify};

/// How often it is looked whether keys are to be fetched.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// All issuers whose tokens are taken.
#[derive(Debug, Default)]
pub struct Issuers(Vec<Arc<Issuer>>);

#[derive(Debug)]
struct Issuer {
    terms: Terms,
    cache: Cache,
}

impl Issuers {
    /// Those of the configuration. Nothing is fetched yet.
    ///
    /// # Errors
    /// When the certificate of an authority cannot be used.
    pub fn new(
        issuers: impl IntoIterator<Item = (Terms, Source)>,
        proxies: &Proxies,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, FetchError> {
        let issuers = issuers.into_iter().map(|(terms, source)| {
            let fetcher = Fetcher::new(terms.issuer.clone(), source, proxies.clone())?;
            let cache = Cache::new(fetcher, clock.clone());
            Ok(Arc::new(Issuer { terms, cache }))
        });
        Ok(Self(issuers.collect::<Result<_, FetchError>>()?))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks a token; answers whose it is, and the name of the issuer.
    ///
    /// # Errors
    /// Why it is not taken.
    pub async fn check(
        &self,
        token: &[u8],
        clock: &dyn Clock,
    ) -> Result<(&str, Verified), Refusal> {
        // Not believed yet: it chooses whose keys it is to be checked with.
        let parsed = jwt::parse(token)?;
        let named = verify::issuer(&parsed.claims).ok_or(Refusal::Issuer)?;
        let issuer = self.0.iter().find(|it| it.terms.issuer == named);
        let issuer = issuer.ok_or(Refusal::Issuer)?;
        let keys = issuer.cache.keys(parsed.kid.as_deref()).await;
        let keys = keys.ok_or(Refusal::Unavailable)?;
        let now = clock.wall().unix_timestamp();
        let verified = verify(token, now, &issuer.terms, &keys)?;
        Ok((&issuer.terms.issuer, verified))
    }

    /// Keeps the keys of all issuers at hand until `stop`.
    pub fn keep(&self, stop: &CancellationToken) {
        for issuer in &self.0 {
            let (issuer, stop) = (issuer.clone(), stop.clone());
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(LOOK_EVERY);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                    stop.run_until_cancelled(issuer.cache.keep()).await;
                }
            });
        }
    }
}

/// Asks an issuer once, as the server does; answers how many keys it has that could be used.
///
/// # Errors
/// Why they cannot be had.
pub async fn try_issuer(
    issuer: String,
    source: Source,
    proxies: Proxies,
) -> Result<usize, FetchError> {
    let keys = Fetcher::new(issuer, source, proxies)?.fetch().await?;
    Ok(keys.count())
}

/// What whoever sends any bytes as a token reaches: the form, the signature, the claims, and key sets as an
/// issuer might send them. For fuzzing: the answer is whether the bytes were taken for a good token, which
/// takes a key that nobody has.
#[must_use]
pub fn verify_bytes(bytes: &[u8]) -> bool {
    const KEYS: &[u8] = br#"{"keys":[{"kid":"a","kty":"OKP","crv":"Ed25519",
        "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},{"kid":"b","kty":"EC","crv":"P-256",
        "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    let terms = Terms {
        issuer: "https://issuer.example".to_owned(),
        audience: "remote-docker".to_owned(),
        max_age_s: 86_400,
        rules: vec![Rule {
            project: "web".to_owned(),
            claims: [("sub".to_owned(), Pattern(vec!["*".to_owned()]))].into(),
        }],
    };
    let now = 1_772_366_400;
    if let Some(claims) = json::object(bytes) {
        let _ = verify::judge(&claims, now, &terms);
    }
    let _ = Keys::from_jwks(bytes);
    Keys::from_jwks(KEYS).is_ok_and(|keys| verify(bytes, now, &terms, &keys).is_ok())
}
