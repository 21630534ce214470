//! The keys of one issuer, as they were last seen. When they are fetched is decided by [`Seen::is_due`], which is
//! pure.
//!
//! An issuer that cannot be reached keeps nobody out whose key is known, for a day; and whoever sends tokens
//! with keys that are not there makes this server ask the issuer twice a minute, however many they send.

use std::sync::{Arc, PoisonError, RwLock};

use time::{Duration, OffsetDateTime};
use tokio::sync::Mutex;

use super::fetch::Fetcher;
use super::keys::Keys;
use crate::clock::Clock;

/// Between two questions to the issuer at least, whatever tokens come.
const PAUSE: Duration = Duration::seconds(30);
/// How old keys are when they are fetched anew without a reason.
const REFRESH_AFTER: Duration = Duration::minutes(15);
/// How old keys may become while the issuer cannot be reached: one that it took back is good for no longer.
const GOOD_FOR: Duration = Duration::hours(24);

/// The keys of one issuer. Only [`Cache::refresh`] writes what was seen.
pub(super) struct Cache {
    fetcher: Fetcher,
    clock: Arc<dyn Clock>,
    seen: RwLock<Seen>,
    /// Held by whoever asks the issuer; the others wait for the answer.
    asking: Mutex<()>,
}

/// What is known, in server time.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) keys: Option<(Arc<Keys>, OffsetDateTime)>,
    pub(super) asked_at: Option<OffsetDateTime>,
    pub(super) is_failing: bool,
}

/// Who wants keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish<'a> {
    /// A token that names this key, or none.
    Token(Option<&'a str>),
    /// Nobody: they are kept at hand.
    Upkeep,
}

impl Seen {
    /// Whether the issuer is to be asked now.
    pub(super) fn is_due(&self, now: OffsetDateTime, wish: Wish<'_>) -> bool {
        if self.asked_at.is_some_and(|at| now - at < PAUSE) {
            return false;
        }
        match (&self.usable(now), wish) {
            (None, _) => true,
            (Some(keys), Wish::Token(kid)) => !keys.has(kid),
            (Some(_), Wish::Upkeep) => {
                let fetched = self.keys.as_ref().map(|(_, at)| *at);
                fetched.is_none_or(|at| now - at >= REFRESH_AFTER)
            }
        }
    }

    /// The keys, unless they are too old.
    pub(super) fn usable(&self, now: OffsetDateTime) -> Option<Arc<Keys>> {
        let (keys, at) = self.keys.as_ref()?;
        (now - *at < GOOD_FOR).then(|| keys.clone())
    }
}

impl Cache {
    pub(super) fn new(fetcher: Fetcher, clock: Arc<dyn Clock>) -> Self {
        Self {
            fetcher,
            clock,
            seen: RwLock::default(),
            asking: Mutex::default(),
        }
    }

    /// The keys to check a token with that names this one.
    pub(super) async fn keys(&self, kid: Option<&str>) -> Option<Arc<Keys>> {
        self.refresh(Wish::Token(kid)).await;
        self.seen().usable(self.clock.now())
    }

    /// Fetches them if it is time to.
    pub(super) async fn keep(&self) {
        self.refresh(Wish::Upkeep).await;
    }

    async fn refresh(&self, wish: Wish<'_>) {
        if !self.seen().is_due(self.clock.now(), wish) {
            return;
        }
        let _asking = self.asking.lock().await;
        // Another may have asked meanwhile.
        let (mut seen, now) = (self.seen(), self.clock.now());
        if !seen.is_due(now, wish) {
            return;
        }
        // Noted first: whoever goes away while it waits has asked all the same.
        seen.asked_at = Some(now);
        self.note(seen.clone());
        let issuer = self.fetcher.issuer();
        match self.fetcher.fetch().await {
            Ok(keys) => {
                if seen.is_failing || seen.keys.is_none() {
                    tracing::info!("the keys of the issuer {issuer} are at hand");
                }
                seen.keys = Some((Arc::new(keys), now));
                seen.is_failing = false;
            }
            Err(error) => {
                if !seen.is_failing {
                    let left = match seen.usable(now) {
                        Some(_) => "; those of before are used for a day at most",
                        None => ", so that its tokens are refused",
                    };
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the keys of the issuer {issuer} cannot be fetched{left}"
                    );
                }
                seen.is_failing = true;
            }
        }
        self.note(seen);
    }

    fn seen(&self) -> Seen {
        // No code panics while it holds the lock.
        let seen = self.seen.read();
        seen.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, seen: Seen) {
        *self.seen.write().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache")
            .field("fetcher", &self.fetcher)
            .finish_non_exhaustive()
    }
}
