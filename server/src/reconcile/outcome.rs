//! Takes in what jobs came to.

use tokio::task::{Id, JoinError};

use super::jobs::{JobError, Outcome};
use super::memory::Template;
use super::{Look, Reconciler};
use crate::ids::VmId;
use crate::lease::PoolKey;

impl Reconciler {
    pub(super) fn job_ended(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        if let Some(vm) = self.vm_of_job.remove(&id) {
            self.memory.busy_vms.remove(&vm);
        }
        match ended {
            Ok((_, outcome)) => self.take(outcome),
            // The VM is no longer busy, so the planner finds it interrupted and destroys it.
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a step of the reconciler panicked"
                );
                self.look = Look::Due;
            }
        }
    }

    fn take(&mut self, outcome: Outcome) {
        let now = self.context.clock.now();
        match outcome {
            Outcome::Started {
                vm,
                result: Ok(started),
                ..
            } => {
                self.memory.started.insert(vm, started);
            }
            Outcome::Started {
                vm,
                key,
                cloned,
                result: Err(error),
            } => {
                self.start_failed(vm, &key, cloned, &error);
            }
            Outcome::Activated {
                vm,
                key,
                result: Ok(ready),
                ..
            } => {
                let (keyed, link) = *ready;
                self.memory.succeeded(&key);
                self.memory.started.remove(&vm);
                self.memory.keyed.insert(vm, keyed);
                self.watch(vm, Some(link));
                self.set_status(|status| status.last_failure = None);
            }
            Outcome::Activated {
                vm,
                key,
                cloned,
                result: Err(error),
            } => {
                self.start_failed(vm, &key, cloned, &error);
            }
            Outcome::TornDown { vm, result } => {
                self.memory.forget(vm);
                if result.is_err() {
                    self.look = Look::Due;
                }
            }
            Outcome::TemplateBuilt {
                key,
                result: Ok(files),
                ..
            } => {
                tracing::info!(
                    engine = key.engine,
                    size = key.size,
                    "the template of {}/{} is ready",
                    key.engine,
                    key.size
                );
                self.memory.succeeded(&key);
                self.memory.set_template(key, Template::Ready(files));
                self.set_status(|status| status.last_failure = None);
            }
            Outcome::TemplateBuilt {
                vm,
                key,
                result: Err(error),
            } => {
                self.note_failure(
                    &format!(
                        "the template of {}/{} could not be built",
                        key.engine, key.size
                    ),
                    &error,
                );
                tracing::warn!(%vm, "{}/{} boots cold until the server is started again: slower, but right", key.engine, key.size);
                self.memory.failed(&key, now);
                self.memory.set_template(key, Template::Unavailable);
                // What the failed build may have left is an orphan.
                self.look = Look::Due;
            }
            Outcome::Observed { result } => {
                let before = std::mem::replace(&mut self.look, Look::Rested);
                match (before, result) {
                    (Look::UnderWay(before), Ok(observed)) => {
                        self.look = Look::Seen(before, observed);
                    }
                    (_, Ok(_)) => self.look = Look::Due,
                    (_, Err(error)) => {
                        self.note_failure("the host could not be looked at", &error);
                        self.set_status(|status| status.healthy = false);
                    }
                }
            }
            Outcome::Resumed => {}
        }
    }

    fn start_failed(&mut self, vm: VmId, key: &PoolKey, cloned: bool, error: &JobError) {
        let now = self.context.clock.now();
        self.memory.forget(vm);
        self.note_failure(&format!("{vm} did not become ready"), error);
        if !cloned {
            self.memory.failed(key, now);
        } else if self.memory.clone_failed(key, now) {
            tracing::warn!(
                "clones of {}/{} fail again and again: its VMs boot cold until the server is started again",
                key.engine,
                key.size
            );
        }
    }

    fn note_failure(&self, what: &str, error: &(dyn std::error::Error + 'static)) {
        tracing::warn!(error, "{what}");
        let mut text = what.to_owned();
        let mut cause = Some(error);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        self.set_status(|status| status.last_failure = Some(text));
    }
}
