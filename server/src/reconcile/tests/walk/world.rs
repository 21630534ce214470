//! The world that is walked through: a server that comes and goes, what it works on, and what is
//! known about all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use remote_docker_api::LeaseId;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::checks;
use super::dice::Dice;
use super::holder::News;
use super::lives::Lives;
use super::record::{Tally, Trail};
use super::step::Step;
use crate::clock::Clock;
use crate::hypervisor::sim::{Admits, SimHypervisor};
use crate::hypervisor::template::Templates;
use crate::ids::VmId;
use crate::lease::{LeasePhase, LeaseRow, PoolKey, Quota, VmPhase, VmRow};
use crate::metrics::Metrics;
use crate::network::DirectDialer;
use crate::reconcile::tests::bench::{Bench, key};
use crate::reconcile::{Reconciler, Settings, Status};
use crate::relay::{Limits, Relay};
use crate::store::Store;

/// How much the disk holds, in bytes, when nobody takes any of it.
pub(super) const DISK: u64 = 1000;

/// How long is waited for what must come, on the clock of who waits for the test.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Tokio's paused clock, as the wall clock of server and guests.
#[derive(Clone)]
struct WalkClock {
    start: OffsetDateTime,
    began: Instant,
}

impl Clock for WalkClock {
    fn now(&self) -> OffsetDateTime {
        self.start + self.began.elapsed()
    }
}

pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) sim: SimHypervisor,
    pub(super) store: Arc<Store>,
    pub(super) settings: Settings,
    pub(super) lives: Lives,
    /// What the last look showed.
    pub(super) vms: Vec<VmRow>,
    pub(super) leases: Vec<LeaseRow>,
    /// How it stood then with telling wires.
    admits: [Admits; 2],
    pub(super) tally: Tally,
    /// When everything was made well last.
    pub(super) healed_at: OffsetDateTime,
    /// Machines whose guests broke the rules of the channel; they may not be listened to any more.
    pub(super) foul: BTreeSet<VmId>,
    server: Option<Server>,
    clock: WalkClock,
    changes: watch::Receiver<u64>,
    /// Where the relay listens, so that no other test is in its way.
    ip: Ipv4Addr,
    trail: Trail,
    /// Has the folder.
    bench: Bench,
    metrics: Arc<Metrics>,
    rounds: watch::Receiver<u64>,
    /// Changes every second of real time.
    seconds: watch::Receiver<()>,
    /// As long as this is there, time stands still.
    _still: mpsc::Sender<()>,
}

struct Server {
    task: JoinHandle<usize>,
    stop: CancellationToken,
    status: watch::Receiver<Status>,
    drains: bool,
}

pub(super) fn large() -> PoolKey {
    PoolKey {
        size: "large".to_owned(),
        ..key()
    }
}

impl World {
    /// A server that has just started for the first time.
    pub(super) async fn new(seed: u64) -> Self {
        let (still, over) = mpsc::channel::<()>();
        let second = watch::Sender::new(());
        let seconds = second.subscribe();
        // As long as it runs, Tokio's clock does not go on by itself whenever all wait for SQLite.
        tokio::task::spawn_blocking(move || {
            let timed_out = Err(mpsc::RecvTimeoutError::Timeout);
            while over.recv_timeout(Duration::from_secs(1)) == timed_out {
                second.send_replace(());
            }
        });
        let clock = WalkClock {
            start: OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap(),
            began: Instant::now(),
        };
        let bench = Bench::new().await;
        let mut settings = bench.settings.clone();
        let mut offer = settings.offers[&key()].clone();
        offer.memory_mib = 2048;
        settings.offers.insert(large(), offer);
        settings.policy.sizes.insert(large(), 2048);
        settings.policy.budget.memory_mib = 6 * 1024;
        let quota = |max_leases, max_memory_mib| Quota {
            max_leases,
            max_memory_mib,
        };
        let quotas = [
            ("a", quota(None, Some(3 * 1024))),
            ("b", quota(Some(1), None)),
        ];
        settings.policy.quotas = quotas.map(|(name, quota)| (name.to_owned(), quota)).into();
        settings.policy.ready_max_age = time::Duration::minutes(10);
        settings.ports = 20_000..=20_015;
        settings.watching = crate::reconcile::Watching::default();
        let store = bench.store.clone();
        let metrics = Arc::new(Metrics::new());
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let mut world = Self {
            dice: Dice::new(seed),
            sim: SimHypervisor::new(Arc::new(clock.clone())),
            changes: store.changes(),
            store,
            settings,
            lives: Lives::new(),
            vms: Vec::new(),
            leases: Vec::new(),
            admits: Default::default(),
            tally: Tally::default(),
            healed_at: clock.start,
            foul: BTreeSet::new(),
            server: None,
            clock,
            ip: Ipv4Addr::new(127, 64 + u8::try_from(seed).unwrap(), high, low),
            trail: Trail::new(seed),
            bench,
            rounds: metrics.rounds(),
            metrics,
            seconds,
            _still: still,
        };
        world.sim.set_free_disk(DISK);
        world.start().await;
        world
    }

    pub(super) fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    pub(super) fn status(&self) -> Status {
        let server = self.server.as_ref().expect("a server runs");
        server.status.borrow().clone()
    }

    pub(super) fn note(&mut self, step: Step) {
        let now = self.now();
        self.trail.note(now, step);
    }

    /// Lets time pass at once; nothing runs meanwhile.
    pub(super) async fn advance(&self, duration: Duration) {
        tokio::time::advance(duration).await;
    }

    /// Waits until the reconciler has gone round once after all that was written so far.
    pub(super) async fn round(&mut self) {
        // The first that ends may have begun before.
        for _ in 0..2 {
            self.rounds.mark_unchanged();
            // Any committed write has it go round.
            let nothing = OffsetDateTime::UNIX_EPOCH;
            self.store.prune(nothing).await.unwrap();
            let began = std::time::Instant::now();
            while !self.rounds.has_changed().unwrap() && !self.is_over() {
                tokio::select! {
                    _ = self.rounds.changed() => break,
                    _ = self.seconds.changed() => {}
                }
                assert!(
                    began.elapsed() < PATIENCE,
                    "the reconciler does not go round"
                );
            }
        }
        self.look_if_changed().await;
    }

    /// Whether the server that was told to stop has ended.
    fn is_over(&self) -> bool {
        let server = self.server.as_ref();
        server.is_none_or(|server| server.task.is_finished())
    }

    /// Starts the server, with other settings than before.
    pub(super) async fn start(&mut self) {
        let stock = self.dice.choose(&[0, 0, 1, 2]);
        self.start_with(stock).await;
    }

    /// Starts the server; it is to keep so many small machines ready.
    pub(super) async fn start_with(&mut self, stock: u32) {
        self.store.startup().await.unwrap();
        let drains = self.dice.percent(30);
        self.settings.drain = drains.then_some(Duration::from_secs(20));
        self.settings.policy.targets = BTreeMap::from([(key(), stock)]);
        let reconciler = Reconciler::new(
            self.store.clone(),
            Arc::new(self.sim.clone()),
            Arc::new(self.clock.clone()),
            Relay::new(Arc::new(DirectDialer), self.ip, Limits::default()),
            Templates::new(self.bench.folder.path().join("templates")),
            self.settings.clone(),
        )
        .with_metrics(self.metrics.clone());
        self.lives.starts.push(self.now());
        let (status, stop) = (reconciler.status(), CancellationToken::new());
        let task = tokio::spawn(reconciler.run(stop.clone()));
        self.server = Some(Server {
            task,
            stop,
            status,
            drains,
        });
    }

    /// Ends the server wherever it is.
    pub(super) async fn crash(&mut self, reopen: bool) {
        let server = self.server.take().unwrap();
        server.task.abort();
        if let Err(ended) = server.task.await
            && ended.is_panic()
        {
            std::panic::resume_unwind(ended.into_panic());
        }
        if reopen {
            self.store.close().await;
            let path = self.bench.folder.path().join("state.db");
            self.store = Arc::new(Store::open(&path).await.unwrap());
            self.changes = self.store.changes();
        }
        self.tally.crashes += 1;
    }

    /// Tells the server to stop and waits for its end, while holders do what they like.
    pub(super) async fn stop(&mut self) {
        let server = self.server.as_ref().unwrap();
        let drains = server.drains;
        server.stop.cancel();
        let began = self.now();
        self.lives.stops.push((began, drains));
        while !self.is_over() {
            self.round().await;
            self.advance(Duration::from_millis(500)).await;
            let took = self.now() - began;
            assert!(took < time::Duration::minutes(2), "the server does not end");
        }
        let server = self.server.take().unwrap();
        let left = server.task.await.unwrap();
        self.look().await;
        self.tally.stops += 1;
        if left > 0 {
            return;
        }
        // 14: nothing is left that serves nobody, but for what no row knows.
        let serves = |vm: &&VmRow| matches!(vm.phase, VmPhase::Assigned { .. });
        assert!(self.vms.iter().all(|vm| serves(&vm)), "14: {:?}", self.vms);
        if drains {
            assert!(self.leases.is_empty(), "14: {:?}", self.leases);
        }
        for vm in self.sim.vms() {
            let is_known = self.vms.iter().any(|row| row.id == vm);
            assert!(is_known || self.is_nobodys(vm), "14: {vm} is left");
        }
    }

    /// Whether no row ever knew this machine: it was to become a template, or nobody started it.
    fn is_nobodys(&self, vm: VmId) -> bool {
        matches!(self.sim.started_as(vm), None | Some("template"))
    }

    /// Whether the relay has this port open.
    pub(super) fn is_open(&self, port: u16) -> bool {
        TcpListener::bind((self.ip, port)).is_err()
    }

    /// Whether the last step of a template's building was done for every template on disk.
    pub(super) fn half_built_templates(&self) -> Vec<std::path::PathBuf> {
        let mut folders = self.bench.templates();
        folders.retain(|path| path.extension().is_some_and(|it| it == "building"));
        folders
    }

    /// Looks at everything if anything was written since the last look; answers whether it was.
    pub(super) async fn look_if_changed(&mut self) -> bool {
        let changed = self.changes.has_changed().unwrap_or(true);
        if changed {
            self.look().await;
        }
        changed
    }

    /// Looks at everything and compares it with what always holds.
    pub(super) async fn look(&mut self) {
        self.tally.looks += 1;
        self.changes.mark_unchanged();
        let host = self.sim.vms();
        let (vms, leases) = self.store.snapshot().await.unwrap();
        let policy = &self.settings.policy;
        checks::rows_agree(&vms, &leases, policy.budget);
        checks::quotas_hold(&leases, policy);
        // Who waits for a wire that does not answer is passed by those whose wires do, also while the
        // machine of the former is given up; and of two that are told at once the later may be first by a
        // round. What came of one that was told before the last look may be written only now.
        let admits = self.sim.admits();
        let [earlier, last] = self.admits;
        let at_once = admits.begun - earlier.begun > 1 || admits.under_way + last.under_way > 0;
        let failed = admits.went_wrong != last.went_wrong;
        let handed = is_handed_one(&self.vms, &self.leases) || is_handed_one(&vms, &leases);
        if !at_once && !failed && !handed {
            self.tally.fair_looks += 1;
            checks::nobody_was_passed_over(&self.leases, &leases, policy, self.now());
        }
        self.admits = [last, admits];
        self.lives.see_vms(&vms);
        for lease in &leases {
            self.see(lease).await;
        }
        let is_live = |id: &LeaseId| leases.iter().any(|lease| lease.id == *id);
        let going_on = self.lives.going_on.iter().copied();
        let over: Vec<LeaseId> = going_on.filter(|id| !is_live(id)).collect();
        for id in over {
            let row = self.store.lease(id).await.unwrap();
            self.see(&row.expect("rows are kept")).await;
        }
        let ending = self.lives.ending_ports();
        checks::ports_are_nobody_elses(&leases, &ending);
        for vm in host {
            if !vms.iter().any(|row| row.id == vm) && !self.is_nobodys(vm) {
                let row = self.store.vm(vm).await.unwrap();
                let row = row.unwrap_or_else(|| panic!("3: {vm} has no row"));
                // Its row may have been written after the rows were read.
                let is_gone = matches!(row.phase, VmPhase::Gone { .. });
                assert!(!is_gone || !self.sim.vms().contains(&vm), "7: {row:?}");
            }
        }
        (self.vms, self.leases) = (vms, leases);
    }

    /// Looks at one lease.
    pub(super) async fn see(&mut self, row: &LeaseRow) {
        let Some(holder) = self.lives.holders.get_mut(&row.id) else {
            panic!("nobody asked for {row:?}");
        };
        let news = holder.see(row);
        if holder.ended.is_some() {
            self.lives.going_on.remove(&row.id);
        }
        match news {
            News::None => {}
            News::Active(vm) => {
                self.tally.active += 1;
                let guest = self.sim.record(vm);
                if let Some(guest) = &guest {
                    let lied = guest.lock().unwrap().lied;
                    assert!(!lied, "10: {vm} is not a machine of its own");
                }
                if let Some(held) = &mut holder.held {
                    held.guest = guest;
                }
                self.lives.serves(vm, row.id);
            }
            News::Ends => {
                let end = holder.end.clone().unwrap();
                let events = self.store.events(row.id, 0).await.unwrap();
                self.lives.judge(row.id, &end, &events);
                self.tally.ends(end.reason);
            }
        }
    }
}

/// Whether a machine is ready and a lease that wants such a one waits: its wire is being told.
fn is_handed_one(vms: &[VmRow], leases: &[LeaseRow]) -> bool {
    let wanted = |vm: &VmRow| {
        let waits = |lease: &LeaseRow| lease.phase == LeasePhase::Waiting && lease.key == vm.key;
        leases.iter().any(waits)
    };
    vms.iter()
        .any(|vm| vm.phase == VmPhase::Ready && wanted(vm))
}
