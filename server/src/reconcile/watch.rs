//! Who watches the guests: one task for each VM that is ready or handed out. It holds the end of the
//! guest's channel, asks again and again how the guest is, and passes on what others want of it. It
//! decides nothing; the loop takes in what it reports.

mod health;
mod watcher;

use std::sync::Arc;
use std::time::Duration;

use remote_docker_api::EventKind;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinError};
use tokio::time::Instant;

use super::Reconciler;
use super::look::Look;
use super::mirror::News;
use crate::guest::Link;
use crate::ids::VmId;
use crate::lease::{LeaseRow, VmPhase, VmRow};
use crate::store::Store;
use health::Illness;
use watcher::Watcher;

/// A lease that may be idle for so long is looked at this many times in it.
const LOOKS_WHILE_IDLE: u32 = 4;

/// No guest is asked more often because of its lease.
const SHORTEST_PERIOD: Duration = Duration::from_secs(1);

/// How much may wait to be told to holders while the database takes its time.
const MAX_UNTOLD: usize = 64;

/// What a watcher found out.
#[derive(Debug)]
pub(super) enum Report {
    /// What the guest said about its use when it was asked at that moment.
    Use {
        vm: VmId,
        what: Use,
        asked_at: Instant,
    },
    /// It is unwell now, or well again.
    Health { vm: VmId, ill: Option<Illness> },
    /// A daemon in it ended and is started again. The words are printable.
    DaemonExited {
        vm: VmId,
        daemon: String,
        status: String,
    },
    /// Its machine runs out of something. The words are printable.
    Trouble {
        vm: VmId,
        kind: EventKind,
        text: String,
    },
    /// Its channel closed: the machine may be gone.
    Closed { vm: VmId },
}

/// What a guest says about its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Something works there, or that is not known.
    Busy,
    /// Nothing works there, and the last byte of its API moved so long ago.
    IdleFor(time::Duration),
    /// Nothing works there, and no byte of its API ever moved.
    NeverSoFar,
}

/// The loop's hold on a watcher, which ends with it.
pub(super) struct Monitor {
    task: AbortHandle,
    period: watch::Sender<Duration>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the holder of a VM is to be told.
struct Untold {
    vm: VmId,
    kind: EventKind,
    text: String,
    at: OffsetDateTime,
}

/// Has holders told, one thing after the other, by a task that ends with this.
pub(super) struct Teller {
    untold: mpsc::Sender<Untold>,
    task: AbortHandle,
}

impl Teller {
    /// Begins to tell.
    pub(super) fn start(store: Arc<Store>) -> Self {
        let (untold, queue) = mpsc::channel(MAX_UNTOLD);
        let task = tokio::spawn(tell(store, queue)).abort_handle();
        Self { untold, task }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn tell(store: Arc<Store>, mut queue: mpsc::Receiver<Untold>) {
    while let Some(Untold { vm, kind, text, at }) = queue.recv().await {
        if let Err(error) = store.tell_trouble(vm, kind, &text, at).await {
            tracing::warn!(%vm, error = &error as &dyn std::error::Error, "the holder of {vm} is not told: {text}");
        }
    }
}

impl Reconciler {
    /// Sees to it that each VM that is ready or handed out is watched, as often as its lease needs: those
    /// that the news are about or that nobody works on any more, or all.
    pub(super) fn watch_guests(&mut self, news: &News) {
        let mut vms = std::mem::take(&mut self.memory.idle_again);
        if news.all {
            vms.extend(self.mirror.roster.vms().map(|vm| vm.id));
        } else {
            vms.extend(&news.vms);
            // How often may be another now.
            let leases = news.leases.iter();
            let leases = leases.filter_map(|lease| self.mirror.roster.lease(*lease));
            vms.extend(leases.filter_map(LeaseRow::machine));
        }
        for id in vms {
            let Some(vm) = self.mirror.vm(id) else {
                continue;
            };
            let wanted = matches!(vm.phase, VmPhase::Ready | VmPhase::Assigned { .. });
            // Whoever works on it may hold its channel.
            if !wanted || self.memory.busy_vms.contains(&id) {
                continue;
            }
            let period = self.period(vm);
            if !self.memory.monitors.contains_key(&id) {
                self.watch(id, None);
            }
            if let Some(monitor) = self.memory.monitors.get(&id) {
                monitor
                    .period
                    .send_if_modified(|known| std::mem::replace(known, period) != period);
            }
        }
    }

    /// Has `vm` watched, over `link` if there is one already.
    pub(super) fn watch(&mut self, vm: VmId, link: Option<Link>) {
        let watching = self.context.settings.watching;
        let (period, asked_every) = watch::channel(watching.period);
        let watcher = Watcher::new(
            vm,
            self.context.hypervisor.clone(),
            self.context.clock.clone(),
            watching,
            asked_every,
            self.memory.guests.enter(vm),
            self.reporter.clone(),
        );
        let task = self.watchers.spawn(watcher.run(link));
        // One before it, if any, ends here.
        self.memory.monitors.insert(vm, Monitor { task, period });
    }

    /// A watcher has ended. It does so when it is told to, or by a fault of ours: the next round makes another
    /// then. Answers whether one is needed.
    pub(super) fn watcher_ended(&mut self, ended: Result<(Id, ()), JoinError>) -> bool {
        let error = match ended {
            Err(error) if !error.is_cancelled() => error,
            _ => return false,
        };
        let monitors = self.memory.monitors.iter();
        let mut its = monitors.filter(|(_, monitor)| monitor.task.id() == error.id());
        let Some(vm) = its.next().map(|(vm, _)| *vm) else {
            return false;
        };
        tracing::error!(%vm, error = &error as &dyn std::error::Error, "who watches {vm} panicked; another begins");
        self.memory.monitors.remove(&vm);
        self.memory.idle_again.insert(vm);
        true
    }

    /// Takes in a report. Whether it is reason enough for another round: what guests say about their
    /// use waits for the next one, or many guests would keep the loop busy with nothing.
    pub(super) fn hear(&mut self, report: Report) -> bool {
        let (Report::Use { vm, .. }
        | Report::Health { vm, .. }
        | Report::DaemonExited { vm, .. }
        | Report::Trouble { vm, .. }
        | Report::Closed { vm }) = report;
        // It may have been forgotten while the report was on its way.
        if !self.memory.monitors.contains_key(&vm) {
            return false;
        }
        match report {
            Report::Use { vm, what, asked_at } => {
                let now = self.context.clock.now();
                self.memory.heard(vm, what, now - asked_at.elapsed(), now);
                false
            }
            Report::Health { vm, ill: Some(ill) } => {
                tracing::warn!(%vm, "{vm} is unwell: {ill}");
                self.memory.unwell.insert(vm)
            }
            Report::Health { vm, ill: None } => {
                tracing::info!(%vm, "{vm} is well again");
                self.memory.unwell.remove(&vm)
            }
            Report::DaemonExited { vm, daemon, status } => {
                tracing::warn!(%vm, daemon, status, "{daemon} in {vm} ended ({status}) and is started again");
                false
            }
            Report::Trouble { vm, kind, text } => {
                tracing::warn!(%vm, "{vm}: {text}");
                self.tell_holder(vm, kind, text);
                false
            }
            Report::Closed { .. } => {
                self.look = Look::Due;
                true
            }
        }
    }

    /// Has the holder of this VM told. The loop does not wait for it: what finds no place in the queue is not told.
    fn tell_holder(&self, vm: VmId, kind: EventKind, text: String) {
        let at = self.context.clock.now();
        let untold = Untold { vm, kind, text, at };
        let Some(teller) = &self.teller else { return };
        if let Err(error) = teller.untold.try_send(untold) {
            let why = error.to_string();
            let Untold { text, .. } = error.into_inner();
            tracing::warn!(%vm, why, "the holder of {vm} is not told: {text}");
        }
    }

    /// How often the guest of this VM is asked.
    fn period(&self, vm: &VmRow) -> Duration {
        let usual = self.context.settings.watching.period;
        let lease = match vm.phase {
            VmPhase::Assigned { lease } => self.mirror.roster.lease(lease),
            _ => None,
        };
        let Some(idle_s) = lease.and_then(|lease| lease.idle_s) else {
            return usual;
        };
        let often = Duration::from_secs(idle_s.into()) / LOOKS_WHILE_IDLE;
        often.max(SHORTEST_PERIOD).min(usual)
    }
}
