//! Watches one guest for as long as the loop wants, whatever becomes of its channel.

use std::sync::Arc;
use std::time::Duration;

use guest_protocol::{Event, Status};
use remote_docker_api::EventKind;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::health::{Health, Illness};
use super::{Report, Use};
use crate::clock::{Clock, random_bytes};
use crate::guest::{
    Ask, GuestError, Link, Occurrence, correction, disk_shortage, memory_shortage, printable,
};
use crate::hypervisor::{Hypervisor, HypervisorError};
use crate::ids::VmId;
use crate::log_budget::LogBudget;
use crate::reconcile::Watching;

/// How long a channel is left alone after it closed.
const PAUSE: Duration = Duration::from_secs(2);

/// How long it is left alone when it had been good for a while, and the first times: mostly its machine
/// has ended, which libvirt knows a moment later, and the holder is to know soon. How long that moment is
/// depends on how much memory the kernel takes back from QEMU, so once is not enough.
const QUICK_PAUSES: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

/// How long a channel may take to be opened. The call itself may go on; nobody waits for it.
const OPEN_LIMIT: Duration = Duration::from_secs(20);

/// How long a guest may take for what somebody else asks of it.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// Why a guest cannot be watched now.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("its channel cannot be opened")]
    Open(#[source] HypervisorError),
    #[error("its channel was not opened within {} s", OPEN_LIMIT.as_secs())]
    OpenLate,
    #[error(transparent)]
    Guest(#[from] GuestError),
}

pub(super) struct Watcher {
    vm: VmId,
    hypervisor: Arc<dyn Hypervisor>,
    clock: Arc<dyn Clock>,
    watching: Watching,
    period: watch::Receiver<Duration>,
    asks: mpsc::Receiver<Ask>,
    reports: mpsc::Sender<Report>,
    log: LogBudget,
    health: Health,
}

impl Watcher {
    pub(super) fn new(
        vm: VmId,
        hypervisor: Arc<dyn Hypervisor>,
        clock: Arc<dyn Clock>,
        watching: Watching,
        period: watch::Receiver<Duration>,
        asks: mpsc::Receiver<Ask>,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        Self {
            vm,
            hypervisor,
            clock,
            watching,
            period,
            asks,
            reports,
            log: LogBudget::new(Instant::now()),
            health: Health::new(watching.misses, watching.docker_patience),
        }
    }

    /// Watches until the task is ended.
    pub(super) async fn run(mut self, mut link: Option<Link>) {
        // A channel that closes as soon as it is opened must not keep anybody busy.
        let mut quick = QUICK_PAUSES.iter();
        loop {
            let began = Instant::now();
            let trouble = match self.follow(&mut link).await {
                Err(Trouble::Guest(error)) if error.is_foul() => {
                    return self.give_up(link, &error).await;
                }
                Err(trouble) => trouble,
                Ok(never) => match never {},
            };
            link = None;
            // A channel that closes because the machine ended is the ordinary case.
            if !matches!(trouble, Trouble::Guest(GuestError::Closed)) {
                self.warn(&trouble);
            }
            self.report(Report::Closed { vm: self.vm }).await;
            if began.elapsed() > PAUSE {
                quick = QUICK_PAUSES.iter();
            }
            if let Some(pause) = quick.next() {
                sleep(*pause).await;
                continue;
            }
            // A guest that is not reached counts as one that does not answer; not in each attempt,
            // as those come faster than questions.
            let pause = if self.health.is_missed() {
                PAUSE.max(*self.period.borrow())
            } else {
                PAUSE
            };
            let change = self.health.missed();
            self.tell(change).await;
            sleep(pause).await;
        }
    }

    /// Follows over `link`, which is made if there is none, until it is of no more use.
    async fn follow(
        &mut self,
        link: &mut Option<Link>,
    ) -> Result<std::convert::Infallible, Trouble> {
        let mut asked_at = Instant::now();
        let link = match link {
            // It has only just become ready: a question now would be in the way of its first client.
            Some(link) => link,
            none => {
                let link = none.insert(self.open().await?);
                link.hello(self.watching.patience).await?;
                self.ask(link).await?;
                link
            }
        };
        loop {
            let next = asked_at + *self.period.borrow_and_update();
            tokio::select! {
                occurrence = link.next() => match occurrence? {
                    Occurrence::Event(event) => self.take(event).await,
                    Occurrence::Closed => return Err(GuestError::Closed.into()),
                },
                Some(ask) = self.asks.recv() => answer(link, ask).await?,
                () = sleep_until(next) => {
                    asked_at = Instant::now();
                    self.ask(link).await?;
                }
                // The period is another now.
                Ok(()) = self.period.changed() => {}
            }
        }
    }

    async fn open(&self) -> Result<Link, Trouble> {
        let nonce =
            random_bytes().map_err(|error| GuestError::Channel(std::io::Error::other(error)))?;
        let channel = timeout(OPEN_LIMIT, self.hypervisor.channel(self.vm))
            .await
            .map_err(|_| Trouble::OpenLate)?
            .map_err(Trouble::Open)?;
        Ok(Link::new(channel, u32::from_ne_bytes(nonce)))
    }

    /// Asks the guest how it is.
    async fn ask(&mut self, link: &mut Link) -> Result<(), GuestError> {
        let asked_at = Instant::now();
        let asked_ns = u64::try_from(self.clock.wall().unix_timestamp_nanos()).unwrap_or_default();
        let (change, by) = match link.status(self.watching.patience).await {
            Ok(status) => {
                let (vm, what) = (self.vm, used(&status));
                let took = asked_at.elapsed();
                let took_ms = took.as_millis();
                tracing::debug!(%vm, took_ms, ?status, "{vm}: {what:?}");
                let report = Report::Use { vm, what, asked_at };
                self.report(report).await;
                let by = status
                    .unix_time_ns
                    .and_then(|guest| correction(asked_ns, took, guest));
                let change = self.health.answered(status.docker_answers, Instant::now());
                (change, by)
            }
            Err(error) if error.channel_holds() => (self.health.missed(), None),
            Err(error) => return Err(error),
        };
        self.tell(change).await;
        match by {
            Some(by_ns) => self.set_right(link, by_ns).await,
            None => Ok(()),
        }
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::DaemonExited { daemon, status } => {
                if self.may_log() {
                    let report = Report::DaemonExited {
                        vm: self.vm,
                        daemon: printable(&daemon),
                        status: printable(&status),
                    };
                    self.report(report).await;
                }
            }
            Event::Disk(usage) => self.trouble(disk_shortage(&usage)).await,
            Event::OutOfMemory(killed) => self.trouble(memory_shortage(&killed)).await,
            Event::Phase(_) => {}
        }
    }

    async fn trouble(&mut self, (kind, text): (EventKind, String)) {
        if self.may_log() {
            let vm = self.vm;
            self.report(Report::Trouble { vm, kind, text }).await;
        }
    }

    /// Moves the guest's clock, which told the time and is wrong.
    async fn set_right(&mut self, link: &mut Link, by_ns: i64) -> Result<(), GuestError> {
        if self.may_log() {
            let (vm, by_ms) = (self.vm, by_ns / 1_000_000);
            tracing::info!(%vm, by_ms, "the clock of {vm} is off and is moved by {by_ms} ms");
        }
        match link.move_clock(by_ns, self.watching.patience).await {
            // It will be off the next time as well.
            Err(error) if error.channel_holds() => {
                self.warn(&Trouble::Guest(error));
                Ok(())
            }
            result => result,
        }
    }

    /// Listens to the guest no more; notices when its machine is gone, all the same.
    async fn give_up(self, link: Option<Link>, error: &GuestError) {
        let vm = self.vm;
        tracing::warn!(%vm, error = error as &dyn std::error::Error, "the agent of {vm} is not listened to any more");
        let ill = Some(Illness::Foul);
        self.report(Report::Health { vm, ill }).await;
        // Who asks now is told at once that nobody is in touch with it.
        drop(self.asks);
        if let Some(mut link) = link {
            link.gone().await;
        }
        let _ = self.reports.send(Report::Closed { vm }).await;
        // Not to return: a watcher that ended would be made anew.
        std::future::pending().await
    }

    fn warn(&mut self, trouble: &Trouble) {
        if self.may_log() {
            let vm = self.vm;
            tracing::warn!(%vm, error = trouble as &dyn std::error::Error, "{vm} is not heard");
        }
    }

    fn may_log(&mut self) -> bool {
        let allowed = self.log.take(Instant::now());
        if let Some(refused @ 1..) = allowed {
            let vm = self.vm;
            tracing::warn!(%vm, refused, "{vm} gave cause for {refused} more lines, which are not logged");
        }
        allowed.is_some()
    }

    async fn tell(&self, change: Option<Option<Illness>>) {
        if let Some(ill) = change {
            self.report(Report::Health { vm: self.vm, ill }).await;
        }
    }

    async fn report(&self, report: Report) {
        // Without a loop there is nobody to tell, and this task is about to be ended.
        let _ = self.reports.send(report).await;
    }
}

/// Does what somebody asked for. One that gave up waiting is no reason to stop.
async fn answer(link: &mut Link, ask: Ask) -> Result<(), GuestError> {
    match ask {
        Ask::Logs { max_bytes, answer } => match link.logs(max_bytes, ASK_LIMIT).await {
            Err(error) if !error.channel_holds() => return Err(error),
            result => drop(answer.send(result)),
        },
        Ask::Notice { message, answer } => match link.notice(message, ASK_LIMIT).await {
            Err(error) if !error.channel_holds() => return Err(error),
            result => drop(answer.send(result)),
        },
    }
    Ok(())
}

/// What a status says about the guest's use. What is not known counts as use.
fn used(status: &Status) -> Use {
    if !status.docker_answers || status.activity.works() {
        return Use::Busy;
    }
    match status.activity.idle_ms {
        Some(idle_ms) => Use::IdleFor(time::Duration::milliseconds(
            i64::try_from(idle_ms).unwrap_or(i64::MAX),
        )),
        None => Use::NeverSoFar,
    }
}

#[cfg(test)]
mod tests {
    use guest_protocol::{Activity, Phase};

    use super::*;

    /// What one that waits takes: there is one for each machine. It was 18 KiB with a buffer for what may come.
    #[test]
    fn a_watcher_that_waits_is_small() {
        fn size<F>(_: impl FnOnce(Watcher, Option<Link>) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size(Watcher::run);
        assert!(bytes <= 4096, "{bytes}");
    }

    #[test]
    fn one_sign_of_life_is_enough_and_what_is_unknown_is_one() {
        let quiet = Activity {
            idle_ms: Some(90_000),
            connections: 3,
            containers_running: Some(0),
            ..Activity::default()
        };
        let used = |docker_answers, activity| {
            used(&Status {
                phase: Phase::Serving,
                docker_answers,
                docker_restarts: 0,
                activity,
                unix_time_ns: None,
            })
        };
        assert_eq!(used(true, quiet), Use::IdleFor(time::Duration::seconds(90)));
        let never = Activity {
            idle_ms: None,
            ..quiet
        };
        assert_eq!(used(true, never), Use::NeverSoFar);
        assert_eq!(used(false, quiet), Use::Busy);
        for busy in [
            Activity {
                containers_running: Some(1),
                ..quiet
            },
            Activity {
                containers_running: None,
                ..quiet
            },
            Activity {
                builds_running: 1,
                ..quiet
            },
            Activity {
                requests_pending: 1,
                ..quiet
            },
        ] {
            assert_eq!(used(true, busy), Use::Busy, "{busy:?}");
        }
    }
}
