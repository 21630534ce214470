//! Tells the relay where leases lead.

use super::status::in_words;
use super::{Reconciler, Trouble};
use crate::lease::{Snapshot, routes};

impl Reconciler {
    /// Tells the relay which routes exist. A port that another process took in the meantime is tried
    /// again in every round.
    pub(super) fn publish(&mut self, snapshot: &Snapshot) {
        let wanted = routes(
            &snapshot.leases,
            &snapshot.vms,
            self.context.settings.guest_network,
        );
        if self.published.as_ref() == Some(&wanted) {
            return;
        }
        let failed = self.relay.publish(wanted.clone());
        self.reservations.clear();
        let words: Vec<String> = failed
            .iter()
            .map(|failure| {
                let route = &failure.route;
                let why = in_words(&failure.error);
                format!(
                    "{} cannot be reached: port {} cannot be opened: {why}",
                    route.lease, route.port
                )
            })
            .collect();
        let words = (!words.is_empty()).then(|| words.join("; "));
        let before = self.status.borrow().troubles.get(&Trouble::Routes).cloned();
        if let Some(words) = &words
            && before.as_ref() != Some(words)
        {
            tracing::error!("{words}; it is tried again");
        }
        self.note(Trouble::Routes, words);
        self.published = failed.is_empty().then_some(wanted);
    }
}
