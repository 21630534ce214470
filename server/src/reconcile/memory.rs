//! What this process knows and a restarted one would not: which actions are in flight, which keys it
//! holds, how the templates stand. The reconciler's loop is its only writer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use remote_docker_api::StepTiming;
use time::OffsetDateTime;
use tokio::task::AbortHandle;

use crate::hypervisor::TemplateFiles;
use crate::ids::VmId;
use crate::lease::{PoolKey, TemplateState};
use crate::pki::VmCa;

/// After so many clones in a row that did not become machines, the template is taken to be bad and
/// VMs boot cold.
const CLONE_FAILURES_ALLOWED: u32 = 3;

/// The longest time in seconds that a key whose VMs fail is left alone.
const LONGEST_HOLD_S: u64 = 60;

#[derive(Default)]
pub(super) struct Memory {
    pub(super) busy_vms: BTreeSet<VmId>,
    pub(super) started: BTreeMap<VmId, Started>,
    pub(super) keyed: BTreeMap<VmId, Keyed>,
    pub(super) monitors: BTreeMap<VmId, AbortHandle>,
    templates: BTreeMap<PoolKey, Template>,
    failures: BTreeMap<PoolKey, Failures>,
}

/// A VM whose processors run.
#[derive(Debug, Clone)]
pub(super) struct Started {
    pub(super) cloned: bool,
    pub(super) began_at: OffsetDateTime,
    pub(super) steps: Vec<StepTiming>,
}

/// A VM that can be handed to somebody.
pub(super) struct Keyed {
    pub(super) ca: VmCa,
    pub(super) began_at: OffsetDateTime,
    pub(super) steps: Vec<StepTiming>,
}

/// How it stands with the template of one key.
#[derive(Debug, Clone)]
pub(super) enum Template {
    Missing,
    Building,
    Ready(TemplateFiles),
    Unavailable,
}

#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    clones_in_a_row: u32,
    held_until: Option<OffsetDateTime>,
}

impl Memory {
    pub(super) fn set_template(&mut self, key: PoolKey, template: Template) {
        self.templates.insert(key, template);
    }

    pub(super) fn template(&self, key: &PoolKey) -> Option<&Template> {
        self.templates.get(key)
    }

    pub(super) fn template_states(&self) -> BTreeMap<PoolKey, TemplateState> {
        let state = |template: &Template| match template {
            Template::Missing => TemplateState::Missing,
            Template::Building => TemplateState::Building,
            Template::Ready(_) => TemplateState::Ready,
            Template::Unavailable => TemplateState::Unavailable,
        };
        self.templates
            .iter()
            .map(|(key, template)| (key.clone(), state(template)))
            .collect()
    }

    /// Until when nothing new is begun for which key.
    pub(super) fn held_back(&self) -> BTreeMap<PoolKey, OffsetDateTime> {
        self.failures
            .iter()
            .filter_map(|(key, failures)| Some((key.clone(), failures.held_until?)))
            .collect()
    }

    pub(super) fn succeeded(&mut self, key: &PoolKey) {
        self.failures.remove(key);
    }

    /// Notes that a start failed and holds its key back: 1 s, then twice as long each time.
    pub(super) fn failed(&mut self, key: &PoolKey, now: OffsetDateTime) {
        let failures = self.failures.entry(key.clone()).or_default();
        let seconds = 1_u64
            .checked_shl(failures.in_a_row)
            .unwrap_or(LONGEST_HOLD_S);
        failures.in_a_row = failures.in_a_row.saturating_add(1);
        failures.held_until = Some(now + Duration::from_secs(seconds.min(LONGEST_HOLD_S)));
    }

    /// Notes that a clone failed; `true` when its template is to be given up.
    pub(super) fn clone_failed(&mut self, key: &PoolKey, now: OffsetDateTime) -> bool {
        self.failed(key, now);
        let failures = self.failures.entry(key.clone()).or_default();
        failures.clones_in_a_row += 1;
        let given_up = failures.clones_in_a_row >= CLONE_FAILURES_ALLOWED;
        if given_up {
            self.set_template(key.clone(), Template::Unavailable);
        }
        given_up
    }

    /// Forgets a VM that will not be handed to anybody any more.
    pub(super) fn forget(&mut self, vm: VmId) {
        self.started.remove(&vm);
        self.keyed.remove(&vm);
        if let Some(monitor) = self.monitors.remove(&vm) {
            monitor.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PoolKey {
        PoolKey {
            engine: "26".into(),
            size: "small".into(),
        }
    }

    #[test]
    fn a_failing_key_is_held_back_longer_each_time_up_to_a_minute() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut memory = Memory::default();
        let held: Vec<i64> = (0..80)
            .map(|_| {
                memory.failed(&key(), now);
                (memory.held_back()[&key()] - now).whole_seconds()
            })
            .collect();
        assert_eq!(held[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(held[8..].iter().all(|&seconds| seconds == 60));
        memory.succeeded(&key());
        assert!(memory.held_back().is_empty());
    }

    #[test]
    fn a_template_is_given_up_after_three_bad_clones_in_a_row() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut memory = Memory::default();
        assert!(!memory.clone_failed(&key(), now));
        assert!(!memory.clone_failed(&key(), now));
        memory.succeeded(&key());
        assert!(!memory.clone_failed(&key(), now));
        assert!(!memory.clone_failed(&key(), now));
        assert!(memory.clone_failed(&key(), now));
        assert!(matches!(
            memory.template(&key()),
            Some(Template::Unavailable)
        ));
    }
}
