//! Which templates there are, which are to be built again and when, and which may go.
//!
//! A template is given up when building it failed or when three of its clones in a row did not become
//! machines. Machines of its kind then boot cold, which is slower and never wrong, and after a pause
//! that grows each time a new one is built beside them. The one that was given up, like one that fits
//! this server no more, stays on disk as long as a machine might read through to it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use time::OffsetDateTime;

use super::status::named;
use crate::hypervisor::template::Checked;
use crate::ids::VmId;
use crate::lease::{LeasePhase, Policy, PoolKey, Snapshot, TemplateState, VmPhase, VmRow};

/// After so many clones in a row that did not become machines, the template is taken to be bad.
const CLONE_FAILURES_ALLOWED: u32 = 3;

/// The longest time in seconds after which a template that cannot be had is tried again.
const LONGEST_PAUSE_S: u64 = 300;

/// The templates of one server. Its only writer is the reconciler's loop.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    templates: BTreeMap<PoolKey, Template>,
    /// How often in a row templates were given up, since the last machine that was made of one.
    given_up: BTreeMap<PoolKey, u32>,
    bad_clones: BTreeMap<PoolKey, u32>,
    /// What the VMs that this process started were made of: a template's folder, or nothing. Of those
    /// of an earlier process it is not known.
    made_of: BTreeMap<VmId, Option<PathBuf>>,
    /// Folders that no new VM will use.
    outdated: BTreeSet<PathBuf>,
}

/// How it stands with the template of one key.
#[derive(Debug, Clone)]
pub(super) enum Template {
    /// There is none. The planner asks for it before it asks for a VM.
    Missing,
    /// It is built, and those who want a VM of it wait.
    Building,
    Ready(Checked),
    /// VMs boot cold.
    Unavailable {
        why: String,
        again: Again,
    },
}

/// When a template that was given up is built again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    At(OffsetDateTime),
    /// It is being built, beside VMs that boot cold.
    UnderWay,
}

impl Upkeep {
    pub(super) fn set(&mut self, key: PoolKey, template: Template) {
        self.templates.insert(key, template);
    }

    pub(super) fn get(&self, key: &PoolKey) -> Option<&Template> {
        self.templates.get(key)
    }

    /// What the planner is told. One that is built beside VMs that boot cold holds up nobody.
    pub(super) fn states(&self) -> BTreeMap<PoolKey, TemplateState> {
        let state = |template: &Template| match template {
            Template::Missing => TemplateState::Missing,
            Template::Building => TemplateState::Building,
            Template::Ready(_) => TemplateState::Ready,
            Template::Unavailable { .. } => TemplateState::Unavailable,
        };
        self.templates
            .iter()
            .map(|(key, template)| (key.clone(), state(template)))
            .collect()
    }

    /// What boots cold, and why, for people.
    /// Wall time is `ahead` of server time.
    pub(super) fn cold(&self, ahead: time::Duration) -> BTreeMap<String, String> {
        let text = |(key, template): (&PoolKey, &Template)| {
            let Template::Unavailable { why, again } = template else {
                return None;
            };
            let again = match again {
                Again::Never => String::new(),
                Again::At(moment) => {
                    let moment = clock_time(moment.saturating_add(ahead));
                    format!("; it is tried again after {moment}")
                }
                Again::UnderWay => "; it is being built again".to_owned(),
            };
            Some((named(key), format!("{why}{again}")))
        };
        self.templates.iter().filter_map(text).collect()
    }

    /// Memory in MiB of builds that the planner does not see.
    pub(super) fn rebuilding_mib(&self, policy: &Policy) -> u64 {
        let under_way = |template: &Template| matches!(template, Template::Unavailable { again, .. } if *again == Again::UnderWay);
        self.templates
            .iter()
            .filter(|(_, template)| under_way(template))
            .filter_map(|(key, _)| policy.sizes.get(key))
            .map(|mib| u64::from(*mib))
            .sum()
    }

    /// When the next that was given up is due.
    pub(super) fn next_due(&self) -> impl Iterator<Item = OffsetDateTime> {
        self.templates
            .values()
            .filter_map(|template| match template {
                Template::Unavailable {
                    again: Again::At(moment),
                    ..
                } => Some(*moment),
                _ => None,
            })
    }

    /// The template that is to be built again now: one whose pause is over, that somebody wants, and
    /// for which there is room beside all that leases need.
    pub(super) fn to_rebuild(
        &self,
        now: OffsetDateTime,
        snapshot: &Snapshot,
        policy: &Policy,
    ) -> Option<PoolKey> {
        let due = |template: &Template| matches!(template, Template::Unavailable { again: Again::At(moment), .. } if *moment <= now);
        let wanted = |key: &PoolKey| policy.prebuild.contains(key) || snapshot.is_asked_for(key);
        let fits = |key: &PoolKey| {
            let mib = policy.sizes.get(key).copied().unwrap_or(u32::MAX);
            spoken_for(snapshot, policy) + u64::from(mib) <= policy.budget.memory_mib
        };
        let mut keys = self
            .templates
            .iter()
            .filter(|(_, it)| due(it))
            .map(|it| it.0);
        keys.find(|key| wanted(key) && fits(key)).cloned()
    }

    /// Begins to build again beside VMs that boot cold.
    pub(super) fn rebuilding(&mut self, key: &PoolKey) {
        if let Some(Template::Unavailable { again, .. }) = self.templates.get_mut(key) {
            *again = Again::UnderWay;
        }
    }

    /// Gives a template up: 1 s, then twice as long each time.
    pub(super) fn give_up(&mut self, key: &PoolKey, why: String, now: OffsetDateTime) {
        let times = self.given_up.entry(key.clone()).or_default();
        let pause = 1_u64.checked_shl(*times).unwrap_or(LONGEST_PAUSE_S);
        *times = times.saturating_add(1);
        self.bad_clones.remove(key);
        let again = Again::At(now + Duration::from_secs(pause.min(LONGEST_PAUSE_S)));
        self.set(key.clone(), Template::Unavailable { why, again });
    }

    /// Notes that a clone failed by what may be its template's fault; `true` when that is enough.
    pub(super) fn clone_failed(&mut self, key: &PoolKey) -> bool {
        let failures = self.bad_clones.entry(key.clone()).or_default();
        *failures += 1;
        *failures >= CLONE_FAILURES_ALLOWED
    }

    /// Notes that a clone became a machine.
    pub(super) fn clone_succeeded(&mut self, key: &PoolKey) {
        self.bad_clones.remove(key);
        self.given_up.remove(key);
    }

    /// Notes what a VM that is about to start is made of.
    pub(super) fn starts(&mut self, vm: VmId, template: Option<&Checked>) {
        let folder = template.and_then(|template| template.files.memory.parent());
        self.made_of.insert(vm, folder.map(Path::to_owned));
    }

    /// Folders of the templates that new VMs use.
    pub(super) fn current(&self) -> Vec<PathBuf> {
        let folder = |template: &Template| match template {
            Template::Ready(template) => template.files.memory.parent().map(Path::to_owned),
            _ => None,
        };
        self.templates.values().filter_map(folder).collect()
    }

    /// Notes what else lies on disk.
    pub(super) fn set_outdated(&mut self, folders: impl IntoIterator<Item = PathBuf>) {
        self.outdated = folders.into_iter().collect();
    }

    /// Whether something on disk waits to be removed.
    pub(super) fn has_outdated(&self) -> bool {
        !self.outdated.is_empty()
    }

    /// Nothing is left of a VM.
    pub(super) fn gone(&mut self, vm: VmId) {
        self.made_of.remove(&vm);
    }

    /// Takes out the folders that no VM can use any more; `vms` are all there are.
    pub(super) fn take_unused<'a>(
        &mut self,
        vms: impl IntoIterator<Item = &'a VmRow>,
    ) -> Vec<PathBuf> {
        let mut on_host = vms.into_iter().filter(|vm| vm.phase != VmPhase::Planned);
        // One that an earlier process started may have been made of anything.
        if on_host.any(|vm| !self.made_of.contains_key(&vm.id)) {
            return Vec::new();
        }
        let used: BTreeSet<&PathBuf> = self.made_of.values().flatten().collect();
        let (keep, unused) = std::mem::take(&mut self.outdated)
            .into_iter()
            .partition(|folder| used.contains(folder));
        self.outdated = keep;
        unused.into_iter().collect()
    }
}

/// Memory in MiB that is taken or that waiting leases will need.
fn spoken_for(snapshot: &Snapshot, policy: &Policy) -> u64 {
    let mib = |vm: &VmRow| u64::from(vm.memory_mib);
    let is_free = |vm: &&VmRow| {
        matches!(
            vm.phase,
            VmPhase::Planned | VmPhase::Starting | VmPhase::Activating | VmPhase::Ready
        )
    };
    let coming: u64 = snapshot.vms.iter().filter(is_free).map(mib).sum();
    let waiting: u64 = snapshot
        .leases
        .iter()
        .filter(|lease| lease.phase == LeasePhase::Waiting)
        .filter_map(|lease| policy.sizes.get(&lease.key))
        .map(|mib| u64::from(*mib))
        .sum();
    snapshot.taken_mib() + snapshot.building_mib(policy) + waiting.saturating_sub(coming)
}

/// A moment of the day, for people who read it within the hour.
fn clock_time(moment: OffsetDateTime) -> String {
    let (hour, minute, second) = moment.to_hms();
    format!("{hour:02}:{minute:02}:{second:02} UTC")
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

    fn again_after(upkeep: &Upkeep, now: OffsetDateTime) -> i64 {
        let moment = upkeep.next_due().next().unwrap();
        (moment - now).whole_seconds()
    }

    #[test]
    fn a_template_that_cannot_be_had_is_tried_less_and_less_often() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut upkeep = Upkeep::default();
        let pauses: Vec<i64> = (0..80)
            .map(|_| {
                upkeep.give_up(&key(), "why".into(), now);
                again_after(&upkeep, now)
            })
            .collect();
        assert_eq!(pauses[..10], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert!(pauses[10..].iter().all(|&pause| pause == 300));
        // Only a machine that was made of one proves that they are good again.
        upkeep.clone_succeeded(&key());
        upkeep.give_up(&key(), "why".into(), now);
        assert_eq!(again_after(&upkeep, now), 1);
    }

    #[test]
    fn a_template_is_bad_after_three_bad_clones_in_a_row() {
        let mut upkeep = Upkeep::default();
        assert!(!upkeep.clone_failed(&key()));
        assert!(!upkeep.clone_failed(&key()));
        upkeep.clone_succeeded(&key());
        assert!(!upkeep.clone_failed(&key()));
        assert!(!upkeep.clone_failed(&key()));
        assert!(upkeep.clone_failed(&key()));
    }
}
