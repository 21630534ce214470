//! The reconciler's dealings with templates: finds, builds, gives up, builds again, removes.

use time::OffsetDateTime;

use super::jobs::{JobError, Outcome, build_template, template_key};
use super::look::Look;
use super::mirror::News;
use super::status::{in_words, named};
use super::upkeep::{Again, Template};
use super::{Reconciler, Work};
use crate::clock::random_bytes;
use crate::hypervisor::HypervisorError;
use crate::hypervisor::template::{Checked, TemplateError, TemplateKey};
use crate::ids::VmId;
use crate::lease::{Policy, PoolKey, Snapshot};

/// How many templates of one key may be on disk: one in use, and one that takes its place.
const GENERATIONS: usize = 2;

impl Reconciler {
    /// Looks at the start which templates there are.
    pub(super) async fn find_templates(&mut self) {
        if let Err(error) = self.templates.sweep_unfinished() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "half-built templates are not swept"
            );
        }
        for key in self
            .context
            .settings
            .offers
            .keys()
            .cloned()
            .collect::<Vec<_>>()
        {
            let template = if self.context.settings.templates {
                self.find_template(&key).await
            } else {
                Template::Unavailable {
                    why: "`hypervisor.templates` is off".to_owned(),
                    again: Again::Never,
                }
            };
            self.upkeep.set(key, template);
        }
        // Without templates they are kept: to be without them is a way to look for a fault.
        if self.context.settings.templates {
            self.list_outdated();
        }
        self.tell_templates();
    }

    async fn find_template(&self, key: &PoolKey) -> Template {
        let Some(offer) = self.context.settings.offers.get(key) else {
            return Template::Missing;
        };
        let found = self.read_template(template_key(&self.context, offer));
        match found.await {
            Ok(Some(template)) => Template::Ready(template),
            // What is there may be in use by machines that outlived a server.
            Ok(None) if self.has_room_on_disk(key) => Template::Missing,
            Ok(None) => Template::Unavailable {
                why: "the last ones are not fit for use".to_owned(),
                again: Again::At(self.context.clock.now()),
            },
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "template of {} is not readable; it will be built again",
                    named(key)
                );
                Template::Missing
            }
        }
    }

    /// Reads all of its memory.
    async fn read_template(&self, key: TemplateKey) -> Result<Option<Checked>, TemplateError> {
        let templates = self.templates.clone();
        match tokio::task::spawn_blocking(move || templates.find(&key)).await {
            Ok(found) => found,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    fn has_room_on_disk(&self, key: &PoolKey) -> bool {
        let offer = self.context.settings.offers.get(key);
        let count = offer.map(|offer| {
            let key = template_key(&self.context, offer);
            self.templates.count(&key)
        });
        // What cannot be counted fails when it is built, and says why.
        !matches!(count, Some(Ok(count)) if count >= GENERATIONS)
    }

    fn list_outdated(&mut self) {
        match self.templates.others(&self.upkeep.current()) {
            Ok(folders) => self.upkeep.set_outdated(folders),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "templates that are not used any more are not removed"
            ),
        }
    }

    /// Begins to build the template of `key`; `false` when it cannot.
    pub(super) fn build_template(&mut self, key: &PoolKey) -> bool {
        let offer = self.context.settings.offers.get(key).cloned();
        let (Some(offer), Ok(bits)) = (offer, random_bytes()) else {
            return false;
        };
        let vm = VmId::from_bits(u64::from_ne_bytes(bits));
        let name = named(key);
        tracing::info!(%vm, engine = key.engine, size = key.size, "building the template of {name}");
        let (context, templates) = (self.context.clone(), self.templates.clone());
        let job = build_template(context, templates, vm, key.clone(), offer);
        self.spawn(vm, Work::BuildsTemplate, job);
        self.waiting.builds(key, self.context.clock.now());
        true
    }

    /// What is to be done about templates beside what the planner asked for.
    pub(super) fn keep_templates(
        &mut self,
        snapshot: &Snapshot,
        policy: &Policy,
        now: OffsetDateTime,
    ) {
        if self.ends_at.is_none()
            && self.disk.trouble().is_none()
            && let Some(key) = self.upkeep.to_rebuild(now, snapshot, policy)
            && self.has_room_on_disk(&key)
            && self.build_template(&key)
        {
            self.upkeep.rebuilding(&key);
        }
        // A machine without a row may be a clone as well.
        let strangers = snapshot.observed.as_ref().is_none_or(|host| {
            let known = |vm: &VmId| self.mirror.vm(*vm).is_some();
            !host.running.iter().all(known)
        });
        if !strangers && self.upkeep.has_outdated() {
            for folder in self.upkeep.take_unused(self.mirror.roster.vms()) {
                tracing::info!("removing {}: no machine uses it any more", folder.display());
                let templates = self.templates.clone();
                self.running
                    .spawn_blocking(move || Outcome::TemplateRemoved {
                        result: templates.remove(&folder),
                    });
            }
        }
        self.tell_templates();
    }

    /// What VMs were made of that are gone does not matter any more.
    pub(super) fn forget_made_of(&mut self, news: &News) {
        for vm in &news.vms {
            if self.mirror.vm(*vm).is_none() {
                self.upkeep.gone(*vm);
            }
        }
    }

    pub(super) fn template_built(&mut self, key: PoolKey, result: Result<Checked, JobError>) {
        let name = named(&key);
        match result {
            Ok(template) => {
                tracing::info!(
                    engine = key.engine,
                    size = key.size,
                    "the template of {name} is ready"
                );
                self.waiting.built(&key, self.context.clock.now());
                self.upkeep.set(key, Template::Ready(template));
                self.list_outdated();
            }
            Err(error) => {
                tracing::warn!(
                    engine = key.engine,
                    size = key.size,
                    error = &error as &dyn std::error::Error,
                    "the template of {name} could not be built: its machines boot cold, which is \
                     slower, and it is tried again"
                );
                let why = format!("the template could not be built: {}", in_words(&error));
                self.upkeep.give_up(&key, why, self.context.clock.now());
                // What the failed build may have left is an orphan.
                self.look = Look::Due;
            }
        }
    }

    /// Notes that a clone did not become a machine, and gives its template up if that is its fault.
    pub(super) fn clone_failed(&mut self, key: &PoolKey, error: &JobError) {
        let Some(Template::Ready(Checked { files, seen })) = self.upkeep.get(key) else {
            return;
        };
        let files = files.clone();
        let damaged = seen.check().is_err();
        let is_enough = is_fault_of_template(error) && self.upkeep.clone_failed(key);
        if !damaged && !is_enough {
            return;
        }
        let name = named(key);
        let why = if damaged {
            "files of the template are gone or were changed".to_owned()
        } else {
            format!(
                "clones failed again and again, the last one so: {}",
                in_words(error)
            )
        };
        tracing::warn!(
            "the template of {name} is given up: {why}; its machines boot cold, which is slower, and \
             it is built again"
        );
        if let Err(error) = self.templates.set_aside(&files, &why) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the next start of the server will try the bad template of {name} again"
            );
        }
        self.upkeep.give_up(key, why, self.context.clock.now());
        self.list_outdated();
    }
}

/// Whether what a clone met may be its template's fault: it could not be loaded, or what was loaded is
/// not a machine that can be made one of its own. A full disk, another image or a failing network say
/// nothing about the template.
fn is_fault_of_template(error: &JobError) -> bool {
    match error {
        JobError::Hypervisor(error) => matches!(
            error,
            HypervisorError::Libvirt { .. }
                | HypervisorError::Monitor { .. }
                | HypervisorError::NotRunning { .. }
                | HypervisorError::Timeout { .. }
        ),
        JobError::Guest(_) => true,
        _ => false,
    }
}
