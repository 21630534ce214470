//! How many leases a second the server makes and takes back when machines cost nothing, and whether one
//! costs more while many others live: the real reconciler and relay, a real SQLite file, a simulated
//! hypervisor. Prints the rates; `make bench` runs it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people that fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
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
use remote_dockerd::store::{Inserted, NewLease, Store};
use tokio_util::sync::CancellationToken;

/// How many leases a second the server makes and takes back.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many leases live all the while, one measurement for each number
    #[arg(long, value_delimiter = ',', default_value = "10,1000,10000")]
    live: Vec<u64>,
    /// How many leases to make and take back in each measurement
    #[arg(long, default_value_t = 5000)]
    leases: u64,
    /// How many clients ask at a time
    #[arg(long, default_value_t = 64)]
    clients: u64,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let most = arguments.live.iter().max().copied().unwrap_or(0) + 2 * arguments.clients;
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(folder.path(), most).await;
        let mut live = 0;
        for wanted in &arguments.live {
            let began = Instant::now();
            server.make(wanted.saturating_sub(live), arguments.clients, false).await;
            live = live.max(*wanted);
            let filled = began.elapsed();
            let (began, used) = (Instant::now(), processor_time());
            let waits = server.make(arguments.leases, arguments.clients, true).await;
            let (took, used) = (began.elapsed(), processor_time() - used);
            let each = |time: Duration| time.as_secs_f64() * 1000.0 / arguments.leases as f64;
            println!(
                "{live:>6} live: {:>6.0} leases made and taken back a second, {:.3} ms each, {:.3} ms of a processor each; \
                 ready after {:.1} ms, p99 {:.1} ms (to get there: {:.1} s)",
                arguments.leases as f64 / took.as_secs_f64(),
                each(took),
                each(used),
                percentile(&waits, 50),
                percentile(&waits, 99),
                filled.as_secs_f64(),
            );
        }
        server.stop.cancel();
    });
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
                    let id = server.ask().await;
                    server
                        .until(id, |row| matches!(row.phase, LeasePhase::Active(_)))
                        .await;
                    waits.push(began.elapsed());
                    if release {
                        server
                            .store
                            .wish_end(id, EndReason::Released)
                            .await
                            .unwrap();
                        server
                            .until(id, |row| matches!(row.phase, LeasePhase::Ended { .. }))
                            .await;
                    }
                }
                waits
            });
        }
        let mut waits: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
        waits.sort_unstable();
        waits
    }

    async fn ask(&self) -> LeaseId {
        let id = LeaseId::from_bits(self.next.fetch_add(1, Ordering::Relaxed));
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
        id
    }

    async fn until(&self, id: LeaseId, arrived: fn(&LeaseRow) -> bool) {
        let mut news = self.store.news_of(id);
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

fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}
