//! Takes in what jobs came to.

use tokio::task::{Id, JoinError};

use super::jobs::{Context, Failed, JobError, Outcome};
use super::look::{Look, Sighting};
use super::status::{in_words, named};
use super::{Reconciler, Trouble};
use crate::ids::VmId;
use crate::lease::PoolKey;

impl Reconciler {
    pub(super) fn job_ended(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        if let Some(job) = self.jobs.remove(&id) {
            self.memory.busy_vms.remove(&job.vm);
            self.memory.idle_again.insert(job.vm);
            self.readmission.ended(job.vm);
        }
        match ended {
            Ok((_, outcome)) => self.take(outcome),
            // A step that was called off.
            Err(error) if error.is_cancelled() => {}
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
        if self.is_too_late(&outcome) {
            return;
        }
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
                cloned,
                result: Ok(ready),
            } => {
                let (keyed, link) = *ready;
                let took = self.context.clock.now() - keyed.began_at;
                self.waiting.started(&key, took);
                self.memory.became_ready(&key);
                if cloned {
                    self.upkeep.clone_succeeded(&key);
                }
                self.memory.started.remove(&vm);
                self.memory.keyed.insert(vm, keyed);
                self.watch(vm, Some(link));
                self.note(Trouble::Starts(named(&key)), None);
            }
            Outcome::Activated {
                vm,
                key,
                cloned,
                result: Err(error),
            } => {
                self.start_failed(vm, &key, cloned, &error);
            }
            Outcome::Admitted {
                vm,
                key,
                result: Ok(admitted),
            } => {
                self.memory.succeeded(&key);
                self.memory.admitted.insert(vm, admitted);
            }
            Outcome::Admitted {
                vm,
                key,
                result: Err(error),
            } => {
                self.admission_failed(vm, &key, &error);
            }
            Outcome::Readmitted => {}
            Outcome::TornDown { vm, result } => {
                self.memory.forget(vm);
                self.torn_down(vm, result);
            }
            Outcome::TemplateBuilt { key, result } => self.template_built(key, result),
            Outcome::TemplateRemoved { result } => {
                if let Err(error) = result {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "a template that is not used any more is not removed; the next start tries again"
                    );
                }
            }
            Outcome::Observed { since, result } => {
                // Since another became due this one says too little.
                let is_due = matches!(self.look, Look::Due);
                match result {
                    Ok(_) if is_due => {}
                    Ok(shown) => {
                        self.look = Look::Seen(Sighting { shown, since });
                        self.note(Trouble::Host, None);
                    }
                    Err(error) => {
                        if !is_due {
                            self.look = Look::Rested;
                        }
                        let what = "the host could not be looked at";
                        tracing::warn!(error = &error as &dyn std::error::Error, "{what}");
                        let why = format!("{what}: {}", in_words(&error));
                        self.note(Trouble::Host, Some(why));
                    }
                }
            }
            Outcome::Resumed => {}
            Outcome::Pruned => self.prunes = false,
        }
    }

    fn start_failed(&mut self, vm: VmId, key: &PoolKey, cloned: bool, failed: &Failed) {
        let Failed { error, last_words } = failed;
        self.memory.forget(vm);
        let what = format!("{vm} did not become ready");
        tracing::warn!(%vm, error = error as &dyn std::error::Error, "{what}");
        let why = format!("{what}: {}", in_words(error));
        let told = with_last_words(&why, last_words);
        self.note(Trouble::Starts(named(key)), Some(why));
        let now = self.context.clock.now();
        self.memory.failed(key, told, now);
        if cloned {
            self.clone_failed(key, error);
        }
    }

    /// That is no fault of the template.
    fn admission_failed(&mut self, vm: VmId, key: &PoolKey, failed: &Failed) {
        self.memory.forget(vm);
        let what = format!("{vm} cannot be told what it may reach");
        tracing::warn!(%vm, error = &failed.error as &dyn std::error::Error, "{what}");
        let why = format!("{what}: {}", in_words(&failed.error));
        self.note(Trouble::Starts(named(key)), Some(why.clone()));
        let now = self.context.clock.now();
        self.memory.admission_failed(key, why, now);
    }

    fn torn_down(&mut self, vm: VmId, result: Result<(), JobError>) {
        let Err(error) = result else {
            self.memory.stuck.remove(&vm);
            self.note(Trouble::TearDown(vm), None);
            if self.upkeep.has_outdated() {
                // It may have been the last of its template.
                self.look = Look::Due;
            }
            return;
        };
        let now = self.context.clock.now();
        let stuck = self.memory.not_destroyed(vm, now);
        let (tries, pause_s) = (stuck.tries, (stuck.rests_until - now).whole_seconds());
        tracing::warn!(%vm, tries, error = &error as &dyn std::error::Error, "{vm} could not be destroyed; it is tried again in {pause_s} s");
        let why = format!(
            "{vm} could not be destroyed, {tries} times by now: {}; it is tried again",
            in_words(&error)
        );
        self.note(Trouble::TearDown(vm), Some(why));
        self.look = Look::Due;
    }
}

/// Tells the log of a machine that is not there any more although nobody took it away, and answers
/// what its holder is told.
pub(super) async fn lost(context: &Context, vm: VmId) -> String {
    let last_words = context.last_words(vm).await;
    let what = format!("{vm} does not run any more");
    tracing::warn!(%vm, last_words, "{what}");
    with_last_words(&what, &last_words)
}

fn with_last_words(what: &str, last_words: &str) -> String {
    if last_words.is_empty() {
        return what.to_owned();
    }
    format!("{what}. It said last:\n{last_words}")
}
