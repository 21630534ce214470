//! Puts a server together: the one place where the real adapters are chosen and tasks are spawned.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::operator::{self, TokenError};
use crate::access::{Authenticator, FileError, LeaseTokens, Projects, Tokens};
use crate::audit::{Audit, AuditFile, Keeper};
use crate::calendar::CalendarError;
use crate::clock::{Clock, SteadyClock, SystemClock};
use crate::config::{CONSEQUENCE, CaError, Config, Uplink as UplinkChoice};
use crate::http::{
    ApiState, CatalogueError, Lines, MOST_STREAMS, Readiness, UnknownOffer, expect_clients_back,
};
use crate::hypervisor::template::Templates;
use crate::hypervisor::{Hypervisor, HypervisorError, Libvirt, LibvirtConfig};
use crate::image::{Image, ImageError};
use crate::metrics::Metrics;
use crate::network::{Network, NetworkConfig, NetworkError, Uplink};
use crate::oidc::FetchError;
use crate::reconcile::{Reconciler, Settings};
use crate::relay::{Limits, Relay};
use crate::state_dir::{StateDir, StateDirError};
use crate::store::{Store, StoreError};
use crate::tls::{Tls, TlsError};
use machine_logs::MachineLogs;

pub(crate) use door::{proxies, tls_origin, told_names};
pub(crate) use host::{available_memory_mib, disk_reserve_bytes, memory_budget_mib};
pub(crate) use settings::{accelerator_choice, check_offers, nameservers, uid_choice};

/// A server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Not run as root.
    #[error(
        "remote-dockerd must run as root: it makes network namespaces and virtual machines; \
         start it with sudo or as a system service"
    )]
    NotRoot,
    /// The state folder.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The images.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Configuration and images do not fit together.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The operator's token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// All other tokens.
    #[error("the tokens cannot be used")]
    Tokens(#[from] FileError),
    /// The key of the leases' credentials.
    #[error("the key of the leases' credentials, `lease-key` in the state folder, cannot be used")]
    LeaseKey(#[source] std::io::Error),
    /// The CI systems whose tokens are taken.
    #[error("`oidc` cannot be used")]
    Oidc(#[from] FetchError),
    /// The site's authorities.
    #[error(transparent)]
    Site(#[from] CaError),
    /// The API's certificate.
    #[error("the API cannot speak TLS")]
    Tls(#[from] TlsError),
    /// The audit log.
    #[error("cannot write the audit log {path}; another one can be named with `audit.file`", path = path.display())]
    Audit {
        /// Its file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The database.
    #[error("the database cannot be used")]
    Store(#[from] StoreError),
    /// The network.
    #[error("the network of the VMs cannot be set up")]
    Network(#[from] NetworkError),
    /// The hypervisor.
    #[error("VMs cannot be run on this host")]
    Hypervisor(#[from] HypervisorError),
    /// The reconciler panicked.
    #[error("a part of the server ended by a fault of its own; the log says where. Start it again")]
    Reconciler,
    /// A server that was to be drained is not.
    #[error(
        "{machines} machines could not be destroyed in time; start the server again, it goes on with \
         them"
    )]
    NotDrained {
        /// How many.
        machines: usize,
    },
    /// The host's memory cannot be told.
    #[error("cannot read how much memory this host has; set `limits.memory_budget_mib`")]
    Memory(#[source] std::io::Error),
    /// The disk of the state folder cannot be told.
    #[error("cannot read how large the disk of the state folder is; set `limits.disk_reserve_mib`")]
    Disk(#[source] std::io::Error),
    /// A pool is for machines that are not offered.
    #[error("`pool` (number {place}) cannot be kept")]
    Pool {
        /// Which of them, from 1.
        place: usize,
        /// What it asks for.
        #[source]
        source: UnknownOffer,
    },
    /// The times of a pool.
    #[error("`pool` has a time that cannot be understood")]
    Calendar(#[from] CalendarError),
    /// The pools could never be full.
    #[error(
        "the machines of all `pool`s take {needed_mib} MiB when they are at their largest, and all \
         machines together may have {budget_mib}: keep fewer ready, or raise \
         `limits.memory_budget_mib`"
    )]
    PoolsTooLarge {
        /// What they take.
        needed_mib: u64,
        /// What there is.
        budget_mib: u64,
    },
    /// The API's port.
    #[error(
        "cannot listen on {address}: is another server running there? Choose another address with \
         `--listen`"
    )]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

mod door;
mod host;
mod machine_logs;
mod report;
mod settings;

/// How long requests under way may go on after the server was told to stop.
const HTTP_GRACE: Duration = Duration::from_secs(5);

/// Runs a server until `stop`; then leaves VMs of active leases running for the next one, or drains.
///
/// # Errors
/// When it cannot be started; what had been opened by then is closed again. When it was to be drained
/// and machines are left.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), AppError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(AppError::NotRoot);
    }
    let state = StateDir::take(&config.state_dir)?;
    let operators_token = operator::load_or_create(&state.token())?;
    let tokens = Tokens::open(state.tokens())?;
    let metrics = Arc::new(Metrics::new());
    let (audit, keeper) = audit(&config, &metrics)?;
    let listen = config.http.listen;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|source| AppError::Listen {
            address: listen,
            source,
        })?;
    let images = read_images(config.images_dir()).await?;
    let catalogue = settings::catalogue(&config, &images)?;
    let clock: Arc<dyn Clock> = Arc::new(SteadyClock::open(&state.clock(), SystemClock));
    let tls = door::tls_origin(&config, state.path());
    let tls = tls
        .map(|origin| Tls::open(origin, clock.wall()))
        .transpose()?;
    let issuers = door::issuers(&config, &clock, &stop)?;
    let leases = LeaseTokens::open(&state.lease_key()).map_err(AppError::LeaseKey)?;
    let store = Arc::new(Store::open(&state.database()).await?);
    store.startup().await?;

    for ending in config.site.endings() {
        if let Some(trouble) = ending.trouble(clock.wall()) {
            tracing::warn!("`site.ca`: {trouble}; {CONSEQUENCE}");
        }
    }
    let nameservers = nameservers(&config);
    // Whatever can fail without the network comes before it: nothing is to be taken down then.
    let settings = settings::settings(&config, &images, &catalogue, nameservers.clone())?;
    let budget_mib = settings.policy.budget.memory_mib;
    let network = Network::open(NetworkConfig {
        install: store.install_id(),
        guests: config.network.guest_network.base(),
        uplink: match config.network.uplink {
            UplinkChoice::Veth => Uplink::default(),
            UplinkChoice::None => Uplink::None,
        },
        resolvers: nameservers,
        allow: config.network.allow.clone(),
        reach_on_host: config.site.reach_on_host.clone(),
        limits: config.network.limits,
    })
    .await?;
    let reconciler = reconciler(&config, &state, &store, &clock, &network, settings).await;
    let served = match reconciler {
        Ok(reconciler) => {
            let readiness = Readiness::new(report::PARTS);
            tokio::spawn(report::follow(reconciler.status(), readiness.clone()));
            let drains = config.shutdown.drain_s.is_some();
            let audited = CancellationToken::new();
            let keeping = keeper.map(|keeper| {
                let keeping = keeper.run(store.clone(), clock.clone(), audited.clone());
                tokio::spawn(keeping)
            });
            tokio::spawn(crate::heap::tend(store.changes()));
            metrics.set_memory_budget(budget_mib);
            let reconciler = reconciler.with_metrics(metrics.clone());
            let machine_logs = MachineLogs {
                hypervisor: reconciler.hypervisor(),
                guests: reconciler.guests(),
            };
            let authenticator = Authenticator::new(
                operators_token,
                tokens,
                config.projects.keys().cloned(),
                clock.clone(),
            )
            .with_issuers(issuers)
            .with_leases(leases);
            let api = ApiState {
                store: store.clone(),
                catalogue,
                lease: config.lease.clone(),
                max_body_bytes: config.http.max_body_bytes,
                relay_host: config.relay.advertised_host(),
                clock,
                readiness,
                authenticator,
                projects: Projects::new(&config),
                audit,
                egress: config.network.egress_offer(),
                outlook: reconciler.outlook(),
                logs: Arc::new(machine_logs),
                metrics,
                metrics_public: config.http.metrics_public,
                lines: Lines::default(),
                streams: Arc::new(Semaphore::new(MOST_STREAMS)),
                background: TaskTracker::new(),
                // Holders must be able to give back what a server that is being drained waits for.
                stopping: if drains {
                    CancellationToken::new()
                } else {
                    stop.clone()
                },
            };
            let scheme = if tls.is_some() { "https" } else { "http" };
            tracing::info!(
                "listening on {scheme}://{listen}; the operator's token is in {}",
                state.token().display()
            );
            let served = serve(Arc::new(api), listener, tls, reconciler, stop).await;
            // What happened until now is written.
            audited.cancel();
            if let Some(keeping) = keeping {
                let _ = keeping.await;
            }
            match served {
                Ok(0) => Ok(()),
                Ok(machines) if drains => Err(AppError::NotDrained { machines }),
                // They have been told of; the next start makes it good.
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    };
    if let Err(error) = network.close_if_empty().await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the VMs' network is not taken down"
        );
    }
    store.close().await;
    served
}

/// The audit log, and who writes it if there is one. A server that starts is watched by somebody, so it does
/// not start without what it is to write.
fn audit(
    config: &Config,
    metrics: &Arc<Metrics>,
) -> Result<(Arc<Audit>, Option<Keeper>), AppError> {
    let Some(path) = config.audit_file() else {
        return Ok((Arc::new(Audit::none(metrics.clone())), None));
    };
    let mut file = AuditFile::new(path.clone());
    file.open()
        .map_err(|source| AppError::Audit { path, source })?;
    let (audit, keeper) = Audit::in_file(file, metrics.clone());
    Ok((audit, Some(keeper)))
}

/// Serves the API and reconciles until `stop`. Answers how many machines are left that should be gone.
async fn serve(
    api: Arc<ApiState>,
    listener: TcpListener,
    tls: Option<Tls>,
    reconciler: Reconciler,
    stop: CancellationToken,
) -> Result<usize, AppError> {
    expect_clients_back(&api).await?;
    // Without a reconciler there is no server, however it came to its end.
    let over = api.stopping.clone().drop_guard();
    let reconciling = tokio::spawn(async move {
        let left = reconciler.run(stop).await;
        drop(over);
        left
    });
    let door = door::open(&api, tls);
    crate::http::serve(listener, door, api.stopping.clone(), HTTP_GRACE).await;
    api.background.close();
    api.background.wait().await;
    reconciling.await.map_err(|panicked| {
        tracing::error!(
            error = &panicked as &dyn std::error::Error,
            "the reconciler panicked"
        );
        AppError::Reconciler
    })
}

async fn reconciler(
    config: &Config,
    state: &StateDir,
    store: &Arc<Store>,
    clock: &Arc<dyn Clock>,
    network: &Network,
    settings: Settings,
) -> Result<Reconciler, AppError> {
    let libvirt = LibvirtConfig {
        uri: config.hypervisor.uri.clone(),
        accelerator: accelerator_choice(config),
        nested: config.hypervisor.nested,
        uids: uid_choice(config),
        group_limits: settings::group_limits(config),
        ..LibvirtConfig::new(state.path().to_owned())
    };
    let (install, wires) = (store.install_id(), network.wires.clone());
    let hypervisor: Arc<dyn Hypervisor> =
        Arc::new(Libvirt::open(libvirt, install, &network.namespace, wires).await?);
    let dialer = Arc::new(network.dialer.clone());
    let relay = Relay::new(dialer, config.relay.listen_ip, Limits::default());
    let templates = Templates::new(state.templates());
    Ok(Reconciler::new(
        store.clone(),
        hypervisor,
        clock.clone(),
        relay,
        templates,
        settings,
    ))
}

async fn read_images(folder: PathBuf) -> Result<Vec<Image>, AppError> {
    tracing::info!("checking the images in {}", folder.display());
    let read = tokio::task::spawn_blocking(move || crate::image::load_all(&folder)).await;
    match read {
        Ok(images) => Ok(images?),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
