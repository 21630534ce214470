//! How many leases a second the server makes and takes back when machines cost nothing, and whether one
//! costs more while many others live: the real reconciler and relay, a real SQLite file, a simulated
//! hypervisor.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use e2e::figures::{Goal, Part, Unit};
use remote_docker_api::{Egress, EndReason, LeaseId};
use remote_dockerd::calendar::Calendar;
use remote_dockerd::clock::{Clock, SystemClock};
use remote_dockerd::hypervisor::ImageFiles;
use remote_dockerd::hypervisor::sim::SimHypervisor;
use remote_dockerd::hypervisor::template::Templates;
use remote_dockerd::lease::{Budget, LeasePhase, LeaseRow, Policy, PoolKey};
use remote_dockerd::network::DirectDialer;
use remote_dockerd::pki::SanName;
use remote_dockerd::reconcile::{Offer, Reconciler, Settings, Watching};
use remote_dockerd::relay::{Limits, Relay};
use remote_dockerd::seen::Seen;
use remote_dockerd::store::{Inserted, LeaseNews, NewLease, Store};
use tokio_util::sync::CancellationToken;

use crate::Plan;

/// How many clients ask at a time.
const CLIENTS: u64 = 64;

/// From one to the next where they are asked for at the rate that is to be kept.
const PACE: Duration = Duration::from_millis(1);

pub(crate) fn measure(plan: &Plan) -> Part {
    let mut part = Part::begin(
        "rate",
        "Leases made and taken back while others live, by 64 clients that ask for the next one at once, and then at an \
         even pace of 1000 a second: the real reconciler, relay and database, a simulated hypervisor.",
    );
    let most = plan.live.iter().max().copied().unwrap_or(0) + 2 * CLIENTS;
    let limits = raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(folder.path(), most).await;
        let mut live = 0;
        for wanted in &plan.live {
            server
                .make(wanted.saturating_sub(live), CLIENTS, false)
                .await;
            live = live.max(*wanted);
            let (began, used) = (Instant::now(), processor_time());
            let waits = server.make(plan.rate_leases, CLIENTS, true).await;
            let (took, used) = (began.elapsed(), processor_time() - used);
            tell(&mut part, live, &waits, took, used);
            paced(&mut part, live, &server.pace(plan.rate_leases).await);
            eprintln!("{live} live: {} leases", waits.len());
        }
        server.stop.cancel();
    });
    restore_file_limit(limits);
    part.note(
        "The clients use the same processors, and nothing of a lease is left out but its machine.",
    );
    part
}

fn tell(part: &mut Part, live: u64, waits: &[Duration], took: Duration, used: Duration) {
    let name = format!("{live} live, as many as it can: asked to active");
    for wait in waits {
        part.time(&name, *wait);
    }
    let count = waits.len() as f64;
    let rate = count / took.as_secs_f64();
    let each = used.as_secs_f64() * 1000.0 / count;
    let name = |what: &str| format!("{live} live, as many as it can: {what}");
    let asked = Some(Goal::AtLeast(1000.0));
    part.value(&name("leases"), Unit::PerS, rate, asked);
    part.value(&name("processor time of each"), Unit::Ms, each, None);
}

fn paced(part: &mut Part, live: u64, waits: &[Duration]) {
    let name = format!("{live} live, 1000 a second: asked to active");
    for wait in waits {
        part.time(&name, *wait);
    }
    let p99 = percentile(waits, 99);
    let asked = Some(Goal::AtMost(20.0));
    part.value(&format!("{name}, p99"), Unit::Ms, p99, asked);
}

struct Server {
    store: Arc<Store>,
    csr: String,
    next: AtomicU64,
    stop: CancellationToken,
}

fn key() -> PoolKey {
    PoolKey {
        engine: "26".into(),
        size: "small".into(),
    }
}

impl Server {
    async fn start(folder: &Path, most: u64) -> Arc<Self> {
        let image = ImageFiles {
            disk: folder.join("disk"),
            kernel: folder.join("kernel"),
            initrd: folder.join("initrd"),
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
                    memory_mib: most * 1024,
                    slots: u16::try_from(most).unwrap(),
                },
                sizes: BTreeMap::from([(key(), 1024)]),
                quotas: BTreeMap::new(),
                targets: BTreeMap::new(),
                prebuild: BTreeSet::new(),
                start_deadline: time::Duration::seconds(60),
                activate_deadline: time::Duration::seconds(60),
                surplus_after: time::Duration::seconds(30),
                disk_reserve_bytes: 0,
                ready_max_age: time::Duration::hours(6),
                start_attempts: 3,
                warn_before: time::Duration::seconds(60),
            },
            calendar: Calendar::default(),
            offers: BTreeMap::from([(key(), offer)]),
            guest_network: Ipv4Addr::new(10, 213, 0, 0),
            nameservers: vec![],
            site: Arc::default(),
            ports: 10_000..=u16::try_from(10_000 + most).unwrap(),
            server_names: vec![SanName::from_host("127.0.0.1")],
            longest_lease: Duration::from_secs(86_400),
            templates: true,
            drain: None,
            watching: Watching::default(),
        };
        let store = Arc::new(Store::open(&folder.join("state.db")).await.unwrap());
        let clock = Arc::new(SystemClock);
        let reconciler = Reconciler::new(
            store.clone(),
            Arc::new(SimHypervisor::new(clock.clone())),
            clock,
            Relay::new(
                Arc::new(DirectDialer),
                Ipv4Addr::LOCALHOST,
                Limits::default(),
            ),
            Templates::new(folder.join("templates")),
            settings,
        );
        let stop = CancellationToken::new();
        tokio::spawn(reconciler.run(stop.clone()));
        let client = rcgen::KeyPair::generate().unwrap();
        let request = rcgen::CertificateParams::default()
            .serialize_request(&client)
            .unwrap();
        Arc::new(Self {
            store,
            csr: request.pem().unwrap(),
            next: AtomicU64::new(1),
            stop,
        })
    }

    /// Has leases asked for at an even pace, whatever becomes of them, and takes each back. Answers how long each
    /// waited from the moment at which its turn was, the shortest first.
    async fn pace(self: &Arc<Self>, count: u64) -> Vec<Duration> {
        let mut tasks = tokio::task::JoinSet::new();
        let start = tokio::time::Instant::now();
        for number in 0..count {
            let turn = start + PACE * u32::try_from(number).unwrap();
            tokio::time::sleep_until(turn).await;
            let server = self.clone();
            tasks.spawn(async move {
                let lease = server.active().await;
                let waited = turn.elapsed();
                server.end(lease).await;
                waited
            });
        }
        let mut waits = tasks.join_all().await;
        waits.sort_unstable();
        waits
    }

    /// Makes so many leases, `clients` at a time, and takes each back if told so. Answers how long each
    /// client waited for each, the shortest first.
    async fn make(self: &Arc<Self>, count: u64, clients: u64, release: bool) -> Vec<Duration> {
        let left = Arc::new(AtomicU64::new(count));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..clients {
            let (server, left) = (self.clone(), left.clone());
            tasks.spawn(async move {
                let mut waits = Vec::new();
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                    .is_ok()
                {
                    let began = Instant::now();
                    let lease = server.active().await;
                    waits.push(began.elapsed());
                    if release {
                        server.end(lease).await;
                    }
                }
                waits
            });
        }
        let mut waits: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
        waits.sort_unstable();
        waits
    }

    /// Asks for a lease, as the API does, and waits until it is active. Answers what is heard of it.
    async fn active(&self) -> (LeaseId, LeaseNews) {
        let id = LeaseId::from_bits(self.next.fetch_add(1, Ordering::Relaxed));
        let mut news = self.store.news_of(id);
        self.ask(id).await;
        self.until(&mut news, |row| matches!(row.phase, LeasePhase::Active(_)))
            .await;
        (id, news)
    }

    /// Gives it back and waits for its end.
    async fn end(&self, (id, mut news): (LeaseId, LeaseNews)) {
        let wished = self.store.wish_end(id, EndReason::Released).await;
        wished.unwrap();
        self.until(&mut news, |row| {
            matches!(row.phase, LeasePhase::Ended { .. })
        })
        .await;
    }

    async fn ask(&self, id: LeaseId) {
        let now = SystemClock.now();
        let new = NewLease {
            id,
            project: "default".into(),
            key: key(),
            ttl_s: 86_400,
            keepalive_s: None,
            idle_s: None,
            egress: Egress::Internet,
            idempotency: None,
            labels: BTreeMap::new(),
            client_csr_pem: self.csr.clone(),
            created_at: now,
            wait_until: now + Duration::from_secs(600),
            attended: false,
            asked: Default::default(),
            asked_token: None,
        };
        let inserted = self.store.insert_lease(&new).await.unwrap();
        assert!(matches!(inserted, Inserted::New(_)), "{inserted:?}");
    }

    async fn until(&self, news: &mut LeaseNews, arrived: fn(&LeaseRow) -> bool) {
        while !arrived(&news.lease(&self.store).await.unwrap().unwrap()) {
            news.changed().await;
        }
    }
}

/// In milliseconds.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = sorted.get(last * percent / 100).copied();
    at.unwrap_or_default().as_secs_f64() * 1000.0
}

/// What this process has used of all processors together: tells more than the clock does on a machine
/// that others use as well.
fn processor_time() -> Duration {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(u64::try_from(micros).unwrap())
}

/// Answers what it was.
fn raise_file_limit() -> (u64, u64) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (now, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    (now, most)
}

/// So that the servers of other parts have what servers usually have.
fn restore_file_limit((now, most): (u64, u64)) {
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_NOFILE, now, most).unwrap();
}
