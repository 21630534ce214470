//! The reconciler: one loop that reads what is wished and what is, asks the planner what to do, and
//! does it in idempotent steps. The same path runs on a good day and after a crash.
//!
//! It takes no input. It wakes when a row changed, when one of its jobs ended, when a deadline
//! passes and after a period; each time it plans from scratch. What takes time runs as a job beside
//! the loop, at most one for each VM; what is quick (a row, a signature, a port) the loop does itself,
//! so it is the only writer of its memory (`memory.rs`) and of the relay's routes.

mod assign;
mod closing;
mod disk;
mod gather;
mod jobs;
mod look;
mod memory;
mod mirror;
mod outcome;
mod perform;
mod publish;
mod rows;
mod settings;
mod status;
mod templates;
#[cfg(test)]
mod tests;
mod upkeep;
mod waiting;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use remote_docker_api::LeaseId;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::guest::Guests;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::template::Templates;
use crate::ids::VmId;
use crate::lease::{Action, DestroyReason, VmPhase, next_wakeup, plan};
use crate::metrics::Metrics;
use crate::relay::{Relay, Reservation, Route};
use crate::store::{Store, StoreError};

use closing::Course;
use disk::DiskWatch;
use jobs::{Context, Outcome};
use look::{Look, Looks};
use memory::Memory;
use mirror::Mirror;
use publish::Readmission;
use upkeep::Upkeep;
use watch::{Report, Teller};

pub use settings::{Offer, Settings, Watching};
pub use status::{Status, Trouble};
pub use waiting::Outlook;

/// How often the host is looked at when nothing else happens.
const PERIOD: Duration = Duration::from_secs(5);

/// How many reports about guests may wait for the loop; their senders wait then.
const MAX_REPORTS: usize = 256;

/// How long the loop rests after the database failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// How long rows of what is over are kept, to be asked about.
const KEEP_ENDED: Duration = Duration::from_secs(24 * 3600);

/// The loop and all that it knows.
pub struct Reconciler {
    context: Context,
    relay: Relay,
    templates: Templates,
    upkeep: Upkeep,
    memory: Memory,
    mirror: Mirror,
    running: JoinSet<Outcome>,
    /// The running jobs that work on a VM.
    jobs: HashMap<tokio::task::Id, Job>,
    look: Look,
    looks: Looks,
    /// Rows of what is over are being deleted.
    prunes: bool,
    disk: DiskWatch,
    readmission: Readmission,
    /// What the relay was told.
    published: HashMap<LeaseId, Route>,
    /// Leases whose routes it could not open.
    unopened: BTreeMap<LeaseId, String>,
    /// Ports of leases that became active since the routes were published.
    reservations: Vec<Reservation>,
    status: tokio::sync::watch::Sender<Status>,
    waiting: waiting::Waiting,
    metrics: Arc<Metrics>,
    /// Since when heartbeats can reach this server.
    listening_since: OffsetDateTime,
    /// What those who watch the guests found out, and where they send it.
    reports: mpsc::Receiver<Report>,
    reporter: mpsc::Sender<Report>,
    watchers: JoinSet<()>,
    /// Who tells holders what guests run out of, while the loop runs.
    teller: Option<Teller>,
    course: Course,
    /// When the server ends although its course is not at its end.
    ends_at: Option<Instant>,
    /// What was logged of the database's failure, and when.
    database_failed: Option<(String, Instant)>,
    /// The most rows that a plan was made from.
    #[cfg(test)]
    most_planned: Arc<std::sync::atomic::AtomicUsize>,
}

/// A job that works on a VM.
#[derive(Debug)]
struct Job {
    vm: VmId,
    work: Work,
    handle: AbortHandle,
}

/// What a job does with its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Makes a machine for a lease, or goes on with it.
    Makes,
    /// Tells the wire of a machine what this lease may reach, which then gets the machine.
    Admits(LeaseId),
    /// Tells the wire of an active lease's machine once more.
    Readmits,
    /// Makes a machine without a row into a template.
    BuildsTemplate,
    TakesAway,
    /// Lets one go on that stood still.
    Resumes,
}

impl Reconciler {
    /// A reconciler that has not done anything yet.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        hypervisor: Arc<dyn Hypervisor>,
        clock: Arc<dyn Clock>,
        relay: Relay,
        templates: Templates,
        settings: Settings,
    ) -> Self {
        let disk = DiskWatch::new(settings.policy.disk_reserve_bytes);
        let context = Context {
            store,
            hypervisor,
            clock,
            settings: Arc::new(settings),
        };
        let listening_since = context.clock.now();
        let mirror = Mirror::new(&context.store);
        let (reporter, reports) = mpsc::channel(MAX_REPORTS);
        Self {
            context,
            relay,
            templates,
            upkeep: Upkeep::default(),
            memory: Memory::default(),
            mirror,
            running: JoinSet::new(),
            jobs: HashMap::new(),
            look: Look::Due,
            looks: Looks::default(),
            prunes: false,
            disk,
            readmission: Readmission::default(),
            published: HashMap::new(),
            unopened: BTreeMap::new(),
            reservations: Vec::new(),
            status: tokio::sync::watch::Sender::default(),
            waiting: waiting::Waiting::default(),
            metrics: Arc::default(),
            listening_since,
            reports,
            reporter,
            watchers: JoinSet::new(),
            teller: None,
            course: Course::Serving,
            ends_at: None,
            database_failed: None,
            #[cfg(test)]
            most_planned: Arc::default(),
        }
    }

    /// Writes its numbers there from now on.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = metrics;
        self
    }

    /// The host's hypervisor.
    #[must_use]
    pub fn hypervisor(&self) -> Arc<dyn Hypervisor> {
        self.context.hypervisor.clone()
    }

    /// The guests, for those who want something of one.
    #[must_use]
    pub fn guests(&self) -> Guests {
        self.memory.guests.clone()
    }

    /// Follows what the reconciler says about itself.
    #[must_use]
    pub fn status(&self) -> tokio::sync::watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Runs until it is told to stop; then takes away what serves nobody, or all there is if the server
    /// is to be drained. Answers how many machines it could not take away in time.
    pub async fn run(mut self, told: CancellationToken) -> usize {
        self.find_templates().await;
        self.disk.start(self.context.hypervisor.clone());
        self.teller = Some(Teller::start(self.store()));
        let mut changes = self.context.store.changes();
        let mut period = tokio::time::interval(PERIOD);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        'rounds: loop {
            let serving = self.course == Course::Serving;
            if serving && told.is_cancelled() {
                self.begin_closing();
            }
            changes.mark_unchanged();
            let began = Instant::now();
            let round = self.round().await;
            self.metrics.round(began.elapsed());
            let wakeup = match round {
                Ok(Round::Over) => break,
                Ok(Round::Until(wakeup)) => {
                    self.database_works();
                    wakeup
                }
                Err(error) => {
                    self.metrics.failed();
                    self.database_fails(&error);
                    Some(self.context.clock.now() + PAUSE_AFTER_FAILURE)
                }
            };
            let paused = self.database_failed.is_some();
            // One moment for all turns: reports that need no round must not put it off.
            let again_at = paused.then(|| Instant::now() + PAUSE_AFTER_FAILURE);
            loop {
                tokio::select! {
                    () = told.cancelled(), if self.course == Course::Serving => {}
                    () = at(self.ends_at) => break 'rounds,
                    _ = changes.changed(), if !paused => {}
                    _ = period.tick(), if !paused => {
                        if matches!(self.look, Look::Rested) { self.look = Look::Due }
                        self.prune();
                    }
                    () = self.disk.alarm() => {
                        if matches!(self.look, Look::Rested) { self.look = Look::Due }
                    }
                    () = at(again_at), if paused => {}
                    () = until(&*self.context.clock, wakeup), if !paused => {}
                    Some(ended) = self.running.join_next_with_id() => self.job_ended(ended),
                    Some(report) = self.reports.recv() => {
                        if !self.hear(report) { continue }
                    }
                    Some(ended) = self.watchers.join_next_with_id() => {
                        if !self.watcher_ended(ended) { continue }
                    }
                }
                break;
            }
            // Whatever else has ended by now is part of the same round.
            while let Some(ended) = self.running.try_join_next_with_id() {
                self.job_ended(ended);
            }
        }
        self.close().await
    }

    /// One round: gather, plan, act.
    async fn round(&mut self) -> Result<Round, StoreError> {
        let now = self.context.clock.now();
        // The order matters: this process's sets first, then the rows, then the host.
        let busy = self.busy(now);
        let news = self.mirror.catch_up(&self.context.store).await?;
        self.hear_who_gave_up().await;
        self.looks.note(&news.vms);
        let shown = match std::mem::replace(&mut self.look, Look::Rested) {
            Look::Seen(sighting) => Some(sighting.settle(&self.mirror.roster)),
            Look::Due => {
                self.look_at_host();
                None
            }
            other => {
                self.look = other;
                None
            }
        };
        let mut policy = self.policy();
        let mut snapshot = self.snapshot(shown, busy, &policy, now);
        self.readmit();
        self.publish(&news);
        self.forget_made_of(&news);
        self.watch_guests(&news);
        if self.is_over(&snapshot) {
            return Ok(Round::Over);
        }
        self.course.shape(now, &mut snapshot, &mut policy);
        let progress = self.tell_who_waits(&snapshot, &policy, now);
        let actions = plan(now, &snapshot, &policy);
        if !actions.iter().any(|it| matches!(it, Action::Assign { .. })) {
            // Nobody lacks one.
            self.note(Trouble::Ports, None);
        }
        self.perform(actions, progress, &snapshot, &policy, now)
            .await?;
        self.keep_templates(&snapshot, &policy, now);
        self.take_stock(&snapshot);
        let own = self.memory.next_try().chain(self.upkeep.next_due());
        // A calendar is about the time of people.
        let wall = self.context.clock.wall();
        let change = self.context.settings.calendar.next_change(wall);
        let own = own
            .chain(self.course.deadline())
            .chain(change.map(|change| now + (change - wall)))
            .filter(|moment| *moment > now);
        let wakeup = next_wakeup(now, &snapshot, &policy)
            .into_iter()
            .chain(own)
            .min();
        Ok(Round::Until(wakeup))
    }

    /// A step that gave its VM up writes so and then reports why, at once. What it reports counts before
    /// anything is begun in that VM's place: its key is held back.
    async fn hear_who_gave_up(&mut self) {
        let gave_up = |mirror: &Mirror, job: &Job| {
            let phase = mirror.vm(job.vm).map(|vm| vm.phase);
            matches!(job.work, Work::Makes | Work::Admits(_))
                && matches!(
                    phase,
                    Some(VmPhase::Destroying {
                        reason: DestroyReason::StartFailed | DestroyReason::ActivationFailed
                    })
                )
        };
        while self.jobs.values().any(|job| gave_up(&self.mirror, job))
            && let Some(ended) = self.running.join_next_with_id().await
        {
            self.job_ended(ended);
        }
    }

    /// Has rows deleted of what is long over. The loop does not wait for it.
    fn prune(&mut self) {
        if std::mem::replace(&mut self.prunes, true) {
            return;
        }
        let before = self.context.clock.now() - KEEP_ENDED;
        let store = self.store();
        self.running.spawn(async move {
            if let Err(error) = store.prune(before).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "old rows are not pruned"
                );
            }
            Outcome::Pruned
        });
    }
}

/// How a round ended.
enum Round {
    /// There is nothing more to do in this server's life.
    Over,
    /// At this moment time alone makes something due.
    Until(Option<OffsetDateTime>),
}

/// Sleeps until then; for ever without a moment.
async fn at(moment: Option<Instant>) {
    match moment {
        None => std::future::pending().await,
        Some(moment) => tokio::time::sleep_until(moment).await,
    }
}

/// Sleeps until the clock shows `deadline`; for ever without one.
async fn until(clock: &dyn Clock, deadline: Option<OffsetDateTime>) {
    match deadline {
        None => std::future::pending().await,
        Some(deadline) => {
            let rest = deadline - clock.now();
            // A little late rather than early: a round that finds nothing due yet would spin.
            let rest = Duration::try_from(rest).unwrap_or_default() + Duration::from_millis(1);
            tokio::time::sleep(rest).await;
        }
    }
}
