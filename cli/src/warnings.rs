//! What the machine of a lease runs out of, told while a command uses it, each thing once.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use remote_docker_api::{EventKind, Lease, LeaseId};

use crate::client::Client;
use crate::ui::Ui;

/// How long a command that failed is held up by the question whether that may be why: mostly for one exchange
/// with the server, and for so long only when one of the two is very busy or cannot be reached.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// Tells it.
#[derive(Debug)]
pub(crate) struct Warnings {
    pub(crate) ui: Ui,
    /// Number of the last event that was told.
    last: Cell<u64>,
    /// What was said that can be done.
    advised: RefCell<Vec<&'static str>>,
}

impl Warnings {
    pub(crate) fn new(ui: Ui) -> Self {
        Self {
            ui,
            last: Cell::new(0),
            advised: RefCell::default(),
        }
    }

    /// Tells what was not told yet.
    pub(crate) fn tell(&self, lease: &Lease) {
        for warning in &lease.warnings {
            if warning.seq <= self.last.get() {
                continue;
            }
            self.last.set(warning.seq);
            let words = warning.detail.as_deref();
            let mut text = words.unwrap_or(warning.kind.as_str()).to_owned();
            let mut advised = self.advised.borrow_mut();
            if let Some(advice) = advice(warning.kind)
                && !advised.contains(&advice)
            {
                advised.push(advice);
                text = format!("{text}; {advice}");
            }
            self.ui.warn(&text);
        }
    }

    /// Looks once more: the command failed, perhaps because of what the server has just learned.
    pub(crate) async fn last_look(&self, client: &Client, lease: LeaseId) {
        let look = client.show(lease, Duration::ZERO);
        // Who cannot be asked says nothing.
        if let Ok(Ok(lease)) = tokio::time::timeout(LAST_LOOK, look).await {
            self.tell(&lease);
        }
    }
}

/// What can be done about it.
fn advice(kind: EventKind) -> Option<&'static str> {
    match kind {
        EventKind::DiskLow | EventKind::DiskFull => {
            Some("`docker system prune --all` removes what no container uses")
        }
        EventKind::OutOfMemory => Some(
            "more can be had with a higher limit (`docker run --memory`) or a larger machine (`--size`)",
        ),
        _ => None,
    }
}
