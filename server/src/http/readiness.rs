//! What the server can do at present. Whoever knows about a part reports it; `/readyz` shows it, and
//! lease requests are refused early while a part has failed.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// How a part of the server is doing. Reasons are shown to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// It works.
    Ok,
    /// It works, but worse than it should: for example slower.
    Degraded(String),
    /// It will work, but is not there yet. Requests may wait for it.
    Pending(String),
    /// It does not work and will not by waiting alone.
    Failed(String),
}

/// The state of all parts, by name. Clones share it.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<watch::Sender<BTreeMap<String, Check>>>);

impl Readiness {
    /// All of these parts are there but have not reported yet.
    #[must_use]
    pub fn new<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        let pending = |part: &str| (part.to_owned(), Check::Pending("is starting".to_owned()));
        let checks = parts.into_iter().map(pending).collect();
        Self(Arc::new(watch::Sender::new(checks)))
    }

    /// Reports how a part is doing; a new name adds a part.
    pub fn set(&self, part: &str, check: Check) {
        self.0.send_if_modified(|checks| {
            let changed = checks.get(part) != Some(&check);
            if changed {
                checks.insert(part.to_owned(), check);
            }
            changed
        });
    }

    /// All parts as of now.
    #[must_use]
    pub fn checks(&self) -> BTreeMap<String, Check> {
        self.0.borrow().clone()
    }

    /// Tells of changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<BTreeMap<String, Check>> {
        self.0.subscribe()
    }

    /// Whether everything needed for a lease works. Without any part: no.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let checks = self.0.borrow();
        let works = |check| matches!(check, &Check::Ok | &Check::Degraded(_));
        !checks.is_empty() && checks.values().all(works)
    }

    /// What has failed, in a sentence.
    pub(super) fn failures(&self) -> Option<String> {
        self.list(|check| match check {
            Check::Failed(why) => Some(why),
            _ => None,
        })
    }

    /// What may explain a long wait, in a sentence.
    pub(super) fn troubles(&self) -> Option<String> {
        self.list(|check| match check {
            Check::Failed(why) | Check::Pending(why) | Check::Degraded(why) => Some(why),
            Check::Ok => None,
        })
    }

    fn list(&self, why: impl Fn(&Check) -> Option<&String>) -> Option<String> {
        let checks = self.0.borrow();
        let parts: Vec<String> = checks
            .iter()
            .filter_map(|(part, check)| Some(format!("{part}: {}", why(check)?)))
            .collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}
