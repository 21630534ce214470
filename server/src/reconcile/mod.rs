//! The reconciler: one loop that reads what is wished and what is, asks the planner what to do, and
//! does it in idempotent steps. The same path runs on a good day and after a crash.
//!
//! It takes no input. It wakes when a row changed, when one of its jobs ended, when a deadline
//! passes and after a period; each time it plans from scratch. What takes time runs as a job beside
//! the loop, at most one for each VM; what is quick (a row, a signature, a port) the loop does itself,
//! so it is the only writer of its memory (`memory.rs`) and of the relay's routes.

mod assign;
mod disk;
mod jobs;
mod memory;
mod observation;
mod outcome;
mod perform;
mod settings;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::guest::Guests;
use crate::hypervisor::template::Templates;
use crate::hypervisor::{Hypervisor, Observed};
use crate::ids::VmId;
use crate::lease::{Snapshot, TemplateState, VmRow, next_wakeup, plan, routes};
use crate::relay::{Relay, Reservation, Route};
use crate::store::{Store, StoreError};

use disk::DiskWatch;
use jobs::{Context, Outcome};
use memory::{Memory, Template};
use observation::Before;
use watch::Report;

pub use settings::{Offer, Settings, Watching};

/// How often the host is looked at when nothing else happens.
const PERIOD: Duration = Duration::from_secs(5);

/// How long jobs may go on after the server was told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(20);

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
    memory: Memory,
    running: JoinSet<Outcome>,
    /// Which VM a running job works on, for the case that the job panics.
    vm_of_job: HashMap<tokio::task::Id, VmId>,
    look: Look,
    disk: DiskWatch,
    published: Vec<Route>,
    /// Ports of leases that became active since the routes were published.
    reservations: Vec<Reservation>,
    status: tokio::sync::watch::Sender<Status>,
    /// What those who watch the guests found out, and where they send it.
    reports: mpsc::Receiver<Report>,
    reporter: mpsc::Sender<Report>,
}

/// What the reconciler tells the rest of the server about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The last look at database and host went well.
    pub healthy: bool,
    /// Templates that are not there yet but are wanted from the start, as `engine/size`.
    pub preparing: BTreeSet<String>,
    /// Templates that cannot be had, so that VMs boot cold, as `engine/size`.
    pub cold: BTreeSet<String>,
    /// What is wrong with the host's disk, in words, so that no machines are started.
    pub disk: Option<String>,
    /// What failed last, in words; empty after the next success.
    pub last_failure: Option<String>,
}

/// Looking at the host.
enum Look {
    Due,
    UnderWay(Before),
    Seen(Before, Observed),
    Rested,
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
        let (reporter, reports) = mpsc::channel(MAX_REPORTS);
        Self {
            context,
            relay,
            templates,
            memory: Memory::default(),
            running: JoinSet::new(),
            vm_of_job: HashMap::new(),
            look: Look::Due,
            disk,
            published: Vec::new(),
            reservations: Vec::new(),
            status: tokio::sync::watch::Sender::default(),
            reports,
            reporter,
        }
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

    /// Runs until `stop`; lets the jobs under way end then, and leaves VMs as they are.
    pub async fn run(mut self, stop: CancellationToken) {
        self.find_templates();
        self.disk.start(self.context.hypervisor.clone());
        let mut changes = self.context.store.changes();
        let mut period = tokio::time::interval(PERIOD);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            changes.mark_unchanged();
            let wakeup = match self.round().await {
                Ok(wakeup) => wakeup,
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the database failed"
                    );
                    self.set_status(|status| status.healthy = false);
                    tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                    continue;
                }
            };
            loop {
                tokio::select! {
                    () = stop.cancelled() => {}
                    _ = changes.changed() => {}
                    _ = period.tick() => {
                        if matches!(self.look, Look::Rested) { self.look = Look::Due }
                        self.prune().await;
                    }
                    () = self.disk.alarm() => {
                        if matches!(self.look, Look::Rested) { self.look = Look::Due }
                    }
                    () = until(&*self.context.clock, wakeup) => {}
                    Some(ended) = self.running.join_next_with_id() => self.job_ended(ended),
                    Some(report) = self.reports.recv() => {
                        if !self.hear(report) { continue }
                    }
                }
                break;
            }
            // Whatever else has ended by now is part of the same round.
            while let Some(ended) = self.running.try_join_next_with_id() {
                self.job_ended(ended);
            }
        }
        self.stop().await;
    }

    /// One round: gather, plan, act. Returns when time alone makes something due.
    async fn round(&mut self) -> Result<Option<OffsetDateTime>, StoreError> {
        // The order matters: this process's sets first, then the rows, then the host.
        let busy_vms = self.memory.busy_vms.clone();
        let connected = self.memory.started.keys().copied().collect();
        let keyed = self.memory.keyed.keys().copied().collect();
        let (vms, leases) = self.context.store.snapshot().await?;
        let observed = match std::mem::replace(&mut self.look, Look::Rested) {
            Look::Seen(before, observed) => Some(before.settle(observed, &vms)),
            Look::Due => {
                self.look_at_host(&vms);
                None
            }
            other => {
                self.look = other;
                None
            }
        };
        let looked = observed.is_some();
        let snapshot = Snapshot {
            vms,
            leases,
            observed,
            busy_vms,
            busy_leases: BTreeSet::new(),
            connected,
            keyed,
            templates: self.memory.template_states(),
            held_back: self.memory.held_back(),
            free_disk_bytes: self.disk.free(),
            activity: self.memory.activity.clone(),
            unwell: self.memory.unwell.clone(),
            ..Snapshot::default()
        };
        let now = self.context.clock.now();
        self.publish(&snapshot);
        self.watch_guests(&snapshot);
        for action in plan(now, &snapshot, &self.context.settings.policy) {
            self.perform(action, &snapshot, now).await?;
        }
        self.tell_status(looked);
        Ok(next_wakeup(now, &snapshot, &self.context.settings.policy))
    }

    fn look_at_host(&mut self, vms: &[VmRow]) {
        self.look = Look::UnderWay(Before::new(vms, &self.memory.busy_vms));
        let hypervisor = self.context.hypervisor.clone();
        self.running.spawn(async move {
            Outcome::Observed {
                result: hypervisor.list().await,
            }
        });
    }

    /// Tells the relay which routes exist. A port that another process took in the meantime is tried
    /// again in every round.
    fn publish(&mut self, snapshot: &Snapshot) {
        let wanted = routes(
            &snapshot.leases,
            &snapshot.vms,
            self.context.settings.guest_network,
        );
        if wanted == self.published {
            return;
        }
        let failed = self.relay.publish(wanted.clone());
        self.reservations.clear();
        for failure in &failed {
            let port = failure.route.port;
            tracing::error!(lease = %failure.route.lease, port, error = &failure.error as &dyn std::error::Error, "{} cannot be reached: port {port} cannot be opened", failure.route.lease);
        }
        self.published = if failed.is_empty() {
            wanted
        } else {
            Vec::new()
        };
    }

    fn find_templates(&mut self) {
        if let Err(error) = self.templates.sweep_unfinished() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "half-built templates are not swept"
            );
        }
        for (key, offer) in self.context.settings.offers.clone() {
            let template = if self.context.settings.templates {
                match self
                    .templates
                    .find(&jobs::template_key(&self.context, &offer))
                {
                    Ok(Some(files)) => Template::Ready(files),
                    Ok(None) => Template::Missing,
                    Err(error) => {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "template of {}/{} is not readable; it will be built again",
                            key.engine,
                            key.size
                        );
                        Template::Missing
                    }
                }
            } else {
                Template::Unavailable
            };
            self.memory.set_template(key, template);
        }
    }

    async fn prune(&self) {
        let before = self.context.clock.now() - KEEP_ENDED;
        if let Err(error) = self.context.store.prune(before).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "old rows are not pruned"
            );
        }
    }

    fn tell_status(&self, looked: bool) {
        let states = self.memory.template_states();
        let named = |wanted: fn(&TemplateState) -> bool| {
            states
                .iter()
                .filter(|(_, state)| wanted(state))
                .map(|(key, _)| key.clone())
                .collect::<Vec<_>>()
        };
        let prebuilt = &self.context.settings.policy.prebuild;
        let text = |key: &crate::lease::PoolKey| format!("{}/{}", key.engine, key.size);
        let preparing = named(|s| !s.is_settled())
            .iter()
            .filter(|key| prebuilt.contains(*key))
            .map(text)
            .collect();
        let cold = named(|s| *s == TemplateState::Unavailable)
            .iter()
            .map(text)
            .collect();
        self.set_status(|status| {
            status.healthy |= looked;
            status.preparing = preparing;
            status.cold = cold;
            status.disk = self.disk.trouble();
        });
    }

    fn set_status(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            *status != before
        });
    }

    async fn stop(&mut self) {
        self.memory.monitors.clear();
        let all = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_LIMIT, all).await.is_err() {
            tracing::warn!(
                "stopped with {} steps unfinished; the next start makes them good",
                self.running.len()
            );
        }
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
