//! A server without HTTP: the real reconciler, a real SQLite file, a simulated host, a clock that
//! stands still until it is told otherwise.

mod clients;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::calendar::Calendar;
use crate::clock::hands::Hands;
use crate::clock::{Clock, SteadyClock};
use crate::guest::Guests;
use crate::hypervisor::sim::SimHypervisor;
use crate::hypervisor::template::Templates;
use crate::hypervisor::{Hypervisor, ImageFiles};
use crate::lease::{Budget, Policy, PoolKey};
use crate::network::DirectDialer;
use crate::pki::SanName;
use crate::reconcile::{Offer, Outlook, Reconciler, Settings, Status, Watching};
use crate::relay::{Limits, Relay};
use crate::seen::Seen;
use crate::store::Store;

pub(super) use clients::Ask;

/// Waiting for a level ends after this; far beyond what any test needs.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

pub(super) struct Bench {
    pub(super) sim: SimHypervisor,
    pub(super) store: Arc<Store>,
    pub(super) settings: Settings,
    /// The host's clocks.
    hands: Hands,
    clock: Arc<SteadyClock<Hands>>,
    pub(super) folder: tempfile::TempDir,
    server: Option<Server>,
    leases_made: u64,
}

struct Server {
    task: JoinHandle<usize>,
    stop: CancellationToken,
    status: tokio::sync::watch::Receiver<Status>,
    guests: Guests,
    outlook: tokio::sync::watch::Receiver<Outlook>,
    most_planned: Arc<AtomicUsize>,
}

pub(super) fn key() -> PoolKey {
    PoolKey {
        engine: "26".into(),
        size: "small".into(),
    }
}

/// What a server does when it starts.
fn server_time(folder: &std::path::Path, hands: &Hands) -> Arc<SteadyClock<Hands>> {
    Arc::new(SteadyClock::open(&folder.join("clock.json"), hands.clone()))
}

/// Ports that are free now, one after the other. Each test process draws its own range.
fn free_ports(count: u16) -> std::ops::RangeInclusive<u16> {
    let start = 20_000 + (std::process::id() % 2_000) as u16 * 20;
    (start..)
        .step_by(usize::from(count))
        .map(|first| first..=first + count - 1)
        .find(|range| {
            range
                .clone()
                .all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        })
        .unwrap()
}

impl Bench {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let start = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let hands = Hands::new(start);
        let clock = server_time(folder.path(), &hands);
        let image = ImageFiles {
            disk: folder.path().join("disk"),
            kernel: folder.path().join("kernel"),
            initrd: folder.path().join("initrd"),
        };
        for path in [&image.disk, &image.kernel, &image.initrd] {
            std::fs::write(path, b"simulated").unwrap();
        }
        let offer = Offer {
            image_digest: "i".into(),
            image_seen: Seen::of(image.all()).unwrap(),
            image,
            vcpus: 2,
            memory_mib: 1024,
        };
        let settings = Settings {
            policy: Policy {
                budget: Budget {
                    memory_mib: 8 * 1024,
                    slots: 8,
                },
                sizes: BTreeMap::from([(key(), 1024)]),
                quotas: BTreeMap::new(),
                targets: BTreeMap::new(),
                prebuild: BTreeSet::new(),
                start_deadline: time::Duration::seconds(60),
                activate_deadline: time::Duration::seconds(60),
                surplus_after: time::Duration::seconds(30),
                ready_max_age: time::Duration::hours(6),
                start_attempts: 3,
                warn_before: time::Duration::seconds(60),
                disk_reserve_bytes: 100,
            },
            calendar: Calendar::default(),
            offers: BTreeMap::from([(key(), offer)]),
            guest_network: Ipv4Addr::new(10, 213, 0, 0),
            nameservers: vec![],
            site: Arc::default(),
            ports: free_ports(8),
            server_names: vec![SanName::from_host("127.0.0.1")],
            longest_lease: std::time::Duration::from_secs(86_400),
            templates: true,
            watching: Watching {
                period: std::time::Duration::from_millis(20),
                ..Watching::default()
            },
            drain: None,
        };
        let store = Arc::new(Store::open(&folder.path().join("state.db")).await.unwrap());
        let sim = SimHypervisor::new(clock.clone());
        Self {
            sim,
            store,
            settings,
            hands,
            clock,
            folder,
            server: None,
            leases_made: 0,
        }
    }

    /// A bench whose server runs.
    pub(super) async fn started() -> Self {
        let mut bench = Self::new().await;
        bench.start().await;
        bench
    }

    pub(super) async fn start(&mut self) {
        self.clock = server_time(self.folder.path(), &self.hands);
        self.store.startup().await.unwrap();
        let dialer = Arc::new(DirectDialer);
        let reconciler = Reconciler::new(
            self.store.clone(),
            Arc::new(self.sim.clone()),
            self.clock.clone(),
            Relay::new(dialer, Ipv4Addr::LOCALHOST, Limits::default()),
            Templates::new(self.folder.path().join("templates")),
            self.settings.clone(),
        );
        let stop = CancellationToken::new();
        let (status, guests) = (reconciler.status(), reconciler.guests());
        let outlook = reconciler.outlook();
        let most_planned = reconciler.most_planned.clone();
        let task = tokio::spawn(reconciler.run(stop.clone()));
        self.server = Some(Server {
            task,
            stop,
            status,
            guests,
            outlook,
            most_planned,
        });
    }

    /// Puts another disk in the place of the image's.
    pub(super) fn replace_image(&self) {
        let disk = self.folder.path().join("disk");
        std::fs::write(disk.with_extension("new"), b"simulated").unwrap();
        std::fs::rename(disk.with_extension("new"), disk).unwrap();
    }

    /// Ends the server as a crash does: whatever was under way stops where it is.
    pub(super) async fn crash(&mut self) {
        let server = self.server.take().unwrap();
        server.task.abort();
        let _ = server.task.await;
    }

    /// Ends the server in good order.
    pub(super) async fn stop(&mut self) {
        let server = self.server.take().unwrap();
        server.stop.cancel();
        server.task.await.unwrap();
    }

    /// What those who wait are told.
    pub(super) fn outlook(&self) -> Outlook {
        self.server.as_ref().unwrap().outlook.borrow().clone()
    }

    /// The most rows that the server made a plan from since this was asked last.
    pub(super) fn most_planned(&self) -> usize {
        let server = self.server.as_ref().unwrap();
        server.most_planned.swap(0, Ordering::Relaxed)
    }

    /// The guests of the server that runs.
    pub(super) fn guests(&self) -> Guests {
        self.server.as_ref().unwrap().guests.clone()
    }

    /// Tells the server to stop; it may take its time.
    pub(super) fn tell_to_stop(&self) {
        self.server.as_ref().unwrap().stop.cancel();
    }

    /// Waits for the server to end; answers how many machines it left that should be gone.
    pub(super) async fn stopped(&mut self) -> usize {
        let server = self.server.take().unwrap();
        tokio::time::timeout(PATIENCE, server.task)
            .await
            .expect("the server does not end")
            .unwrap()
    }

    /// What is wrong, in words.
    pub(super) fn troubles(&self) -> String {
        let status = self.status();
        let texts: Vec<&str> = status.troubles.values().map(String::as_str).collect();
        texts.join("; ")
    }

    /// Folders of the templates that are on disk.
    pub(super) fn templates(&self) -> Vec<std::path::PathBuf> {
        let folders = |path: &std::path::Path| -> Vec<_> {
            std::fs::read_dir(path)
                .into_iter()
                .flatten()
                .map(|entry| entry.unwrap().path())
                .collect()
        };
        let keys = folders(&self.folder.path().join("templates"));
        let mut found: Vec<_> = keys.iter().flat_map(|key| folders(key)).collect();
        found.sort();
        found
    }

    /// Runs SQL on the server's database behind its back.
    pub(super) async fn sql(&self, statement: &'static str) {
        let mut connection = self.another_connection().await;
        sqlx::raw_sql(statement)
            .execute(&mut connection)
            .await
            .unwrap();
    }

    pub(super) fn status(&self) -> Status {
        self.server.as_ref().unwrap().status.borrow().clone()
    }

    pub(super) fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    /// Lets time pass and wakes the reconciler.
    pub(super) async fn pass(&self, seconds: i64) {
        self.hands.pass(seconds);
        self.poke().await;
    }

    /// Lets time pass and wakes nobody.
    pub(super) fn pass_unseen(&self, seconds: i64) {
        self.hands.pass(seconds);
    }

    /// Another connection to the server's database, as another program would have it.
    pub(super) async fn another_connection(&self) -> sqlx::SqliteConnection {
        let path = self.folder.path().join("state.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        sqlx::ConnectOptions::connect(&options).await.unwrap()
    }

    /// Somebody sets the host's clock.
    pub(super) async fn set_clock(&self, by_s: i64) {
        self.hands.set(by_s);
        self.poke().await;
    }

    /// What the host's clock shows.
    pub(super) fn wall(&self) -> OffsetDateTime {
        self.clock.wall()
    }

    /// Any committed write wakes the reconciler.
    pub(super) async fn poke(&self) {
        self.store.prune(OffsetDateTime::UNIX_EPOCH).await.unwrap();
    }

    /// Waits until this holds, looking again whenever a row changed and every few milliseconds.
    pub(super) async fn eventually(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!(
                "not so: {what}; host {:?}; status {:?}",
                self.sim.vms(),
                self.status()
            );
        }
    }

    /// Waits until host and database hold nothing that lives, and checks that every port is free.
    pub(super) async fn clean(&self) {
        self.eventually("the host is empty", |bench| bench.sim.vms().is_empty())
            .await;
        let observed = self.sim.list().await.unwrap();
        assert!(observed.running.is_empty() && observed.remnants.is_empty());
        let mut changes = self.store.changes();
        let rows = async {
            loop {
                changes.mark_unchanged();
                let (vms, leases) = self.store.snapshot().await.unwrap();
                if vms.is_empty() && leases.is_empty() {
                    return;
                }
                changes.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, rows).await.is_err() {
            panic!("rows are left: {:?}", self.store.snapshot().await.unwrap());
        }
        self.eventually("all ports are closed", |bench| {
            bench
                .settings
                .ports
                .clone()
                .all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        })
        .await;
    }
}
