//! What the API's own document allows and forbids is asked of a server without end, by a program that knows
//! nothing else of it. The machines are simulated, and all else is real.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use e2e::process::{bounded, text};
use e2e::setting::{fuzz_s, schemathesis};
use remote_docker_api::LeaseLogs;
use remote_dockerd::access::{Authenticator, Projects, TokenHash, Tokens};
use remote_dockerd::audit::Audit;
use remote_dockerd::calendar::Calendar;
use remote_dockerd::clock::{Clock, SystemClock};
use remote_dockerd::config::{Config, LeaseConfig};
use remote_dockerd::http::{
    ApiState, Catalogue, Check, Door, EngineOffer, GuestLogs, Lines, MOST_STREAMS, Readiness,
    router, serve,
};
use remote_dockerd::hypervisor::ImageFiles;
use remote_dockerd::hypervisor::sim::SimHypervisor;
use remote_dockerd::hypervisor::template::Templates;
use remote_dockerd::ids::VmId;
use remote_dockerd::lease::{Budget, Policy, PoolKey};
use remote_dockerd::metrics::Metrics;
use remote_dockerd::network::DirectDialer;
use remote_dockerd::pki::SanName;
use remote_dockerd::reconcile::{Offer, Reconciler, Settings, Watching};
use remote_dockerd::relay::{Limits, Relay};
use remote_dockerd::seen::Seen;
use remote_dockerd::store::Store;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const TOKEN: &str = "rdt_0123456789abcdef0123456789abcdef";
/// How many machines there may be at a time: more than are asked for.
const MACHINES: u16 = 5000;
/// How long the questions go on in a run of all tests, which asks the same each time.
const TIME_S: u64 = 30;
/// How much longer than that it may take until all is told.
const PATIENCE: Duration = Duration::from_secs(240);

/// What the document does not promise: that all it allows is taken, for a whole number may not be written
/// `60.0` and limits are the configuration's; and that a lease is unknown once it is given back, for it is
/// told about for a day.
const NOT_PROMISED: [&str; 2] = ["positive_data_acceptance", "use_after_free"];

struct Silent;

#[async_trait::async_trait]
impl GuestLogs for Silent {
    async fn logs(&self, _: VmId) -> Option<LeaseLogs> {
        Some(LeaseLogs::default())
    }
}

fn key() -> PoolKey {
    PoolKey {
        engine: "26".into(),
        size: "small".into(),
    }
}

fn settings(folder: &Path) -> Settings {
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
    Settings {
        policy: Policy {
            budget: Budget {
                memory_mib: u64::from(MACHINES) * 1024,
                slots: MACHINES,
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
        ports: 10_000..=10_000 + MACHINES,
        server_names: vec![SanName::from_host("127.0.0.1")],
        longest_lease: Duration::from_secs(86_400),
        templates: true,
        drain: None,
        watching: Watching::default(),
    }
}

/// A server on a port of its own.
async fn start(folder: &Path, stop: &CancellationToken) -> SocketAddr {
    let store = Arc::new(Store::open(&folder.join("state.db")).await.unwrap());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let relay = Relay::new(
        Arc::new(DirectDialer),
        Ipv4Addr::LOCALHOST,
        Limits::default(),
    );
    let reconciler = Reconciler::new(
        store.clone(),
        Arc::new(SimHypervisor::new(clock.clone())),
        clock.clone(),
        relay,
        Templates::new(folder.join("templates")),
        settings(folder),
    );
    let config = Config::default();
    let engine = EngineOffer {
        name: "26".into(),
        version: "26.1.5".into(),
    };
    let small = config.sizes.into_iter().filter(|(name, _)| name == "small");
    let readiness = Readiness::new(["hypervisor"]);
    readiness.set("hypervisor", Check::Ok);
    let api = Arc::new(ApiState {
        store,
        catalogue: Catalogue::new(vec![engine], None, small.collect(), "small").unwrap(),
        lease: config.lease,
        egress: config.network.egress_offer(),
        max_body_bytes: config.http.max_body_bytes,
        relay_host: "127.0.0.1".into(),
        authenticator: Authenticator::new(
            TokenHash::of(TOKEN.as_bytes()),
            Tokens::open(folder.join("tokens.json")).unwrap(),
            [],
            clock.clone(),
        ),
        clock,
        readiness,
        projects: Projects::default(),
        audit: Arc::new(Audit::none(Arc::new(Metrics::new()))),
        outlook: reconciler.outlook(),
        logs: Arc::new(Silent),
        metrics: Arc::new(Metrics::new()),
        metrics_public: false,
        lines: Lines::default(),
        streams: Arc::new(Semaphore::new(MOST_STREAMS)),
        background: TaskTracker::new(),
        stopping: stop.clone(),
    });
    tokio::spawn(reconciler.run(stop.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(
        listener,
        Door::plain(router(api)),
        stop.clone(),
        Duration::ZERO,
    ));
    address
}

/// The server's document, with what it cannot know: values by which the questions get beyond the first
/// check, and the limits of the configuration.
fn narrowed(mut document: Value, limits: &LeaseConfig) -> Value {
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key);
    let csr = request.unwrap().pem().unwrap();
    let schemas = &mut document["components"]["schemas"];
    let number =
        |least: u32, most: u32| json!({ "type": "integer", "minimum": least, "maximum": most });
    let order = &mut schemas["CreateLease"]["properties"];
    order["client_csr_pem"] = json!({ "type": "string", "enum": [csr] });
    order["engine"] = json!({ "type": "string", "enum": ["26", "26.1.5"] });
    order["size"] = json!({ "type": "string", "enum": ["small"] });
    order["wait_s"] = number(0, limits.max_wait_s);
    order["ttl_s"] = number(1, limits.max_ttl_s);
    order["keepalive_s"] = number(limits.min_keepalive_s, limits.max_keepalive_s);
    order["idle_s"] = number(limits.min_idle_s, limits.max_idle_s);
    schemas["ExtendLease"] = json!({
        "type": "object",
        "properties": { "remaining_s": number(1, limits.max_ttl_s) },
        "required": ["remaining_s"],
        "additionalProperties": false,
    });
    schemas["KeepLease"]["properties"]["keep_s"] = number(1, limits.max_ttl_s);
    // A call that waits for what does not come only takes time.
    let show = &mut document["paths"]["/v1/leases/{id}"]["get"]["parameters"];
    show.as_array_mut()
        .unwrap()
        .retain(|parameter| parameter["name"] != "wait_s");
    document
}

fn ask(document: &Path, url: &str, time_s: u64, seed: Option<&str>) -> Output {
    let limit = PATIENCE + Duration::from_secs(time_s);
    let mut command = bounded(limit, schemathesis());
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", document.parent().unwrap())
        .env("LANG", "C.UTF-8")
        .current_dir(document.parent().unwrap())
        .arg("run")
        .arg(document)
        .args([
            "--url",
            url,
            "--header",
            &format!("Authorization: Bearer {TOKEN}"),
        ])
        .args(["--no-color", "--generation-database", "none"])
        .args([
            "--checks",
            "all",
            "--exclude-checks",
            &NOT_PROMISED.join(","),
        ])
        // A stream of events has no end.
        .args(["--exclude-operation-id", "followLease"])
        .args(["--max-time", &time_s.to_string()]);
    if let Some(seed) = seed {
        command.args(["--seed", seed]);
    }
    command.output().unwrap()
}

#[test]
fn whatever_the_document_allows_or_forbids_is_answered_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let runtime = Runtime::new().unwrap();
    let address = runtime.block_on(start(folder.path(), &stop));
    let url = format!("http://{address}");
    let served = reqwest::blocking::get(format!("{url}/v1/openapi.json")).unwrap();
    let document = folder.path().join("openapi.json");
    let narrowed = narrowed(
        serde_json::from_str(&served.text().unwrap()).unwrap(),
        &Config::default().lease,
    );
    std::fs::write(&document, narrowed.to_string()).unwrap();

    let asked = match fuzz_s() {
        Some(time_s) => ask(&document, &url, time_s, None),
        None => ask(&document, &url, TIME_S, Some("1")),
    };
    stop.cancel();
    // The whole of it: each fault comes with the request that shows it.
    let told = text(&asked.stdout);
    assert!(asked.status.success(), "{told}\n{}", text(&asked.stderr));
    println!("{told}");
}
