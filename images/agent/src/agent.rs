//! What the server may ask for, done.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use guest_protocol::{
    Activated, Activation, Activity, Call, DOCKER_PORT, Event, Fault, FaultCode, Fixed, Hello,
    MAX_NOTICE_BYTES, Phase, Reply, Site, Status, VERSION,
};

use tokio::sync::{mpsc, watch};

use crate::channel::Service;
use crate::console::say;
use crate::keys::TlsIdentity;
use crate::kmsg::Mark;
use crate::listener::{self, Backends, Clients};
use crate::liveness::{Liveness, Seen};
use crate::net::Card;
use crate::phase::{self, PhaseCell};
use crate::site::Settings;
use crate::ssh::Sshd;
use crate::supervise::RunningPid;
use crate::{activate, cgroups, clock, cut, disk, docker, logs, quiesce, tls};

/// How long the daemon may take to answer when somebody asks whether it does.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);

/// Longest text of a fault, in bytes.
const MAX_FAULT_BYTES: usize = 500;

/// What the parts of the agent know of each other. Each field has one writer.
#[derive(Default)]
pub(crate) struct State {
    /// Written by [`Agent`]; the first step of it by whoever waits for the daemon.
    pub(crate) phase: PhaseCell,
    /// Written by the daemon's supervisor.
    pub(crate) docker_restarts: AtomicU32,
    /// Written once while the guest boots, before it is ready.
    pub(crate) card: OnceLock<Card>,
    /// Written by the daemon's supervisor.
    pub(crate) dockerd: Arc<RunningPid>,
    /// Written once by [`Agent`]; whoever starts the daemon waits for it.
    pub(crate) prepared: watch::Sender<Option<Fixed>>,
}

/// The answers to the server's calls.
pub(crate) struct Agent {
    state: Arc<State>,
    boot_id: String,
    sshd: Sshd,
    events: mpsc::Sender<Event>,
    clients: Clients,
    liveness: Liveness,
    /// What the site wants, once the server has told.
    settings: Option<Settings>,
    /// Where the kernel's log ended when the guest was made ready to be copied.
    quiesced: Option<Mark>,
    /// Made at the activation, used when the certificate comes.
    identity: Option<TlsIdentity>,
    /// For the console, which is slow, once the server has its answer.
    say_later: Option<String>,
}

impl Agent {
    pub(crate) fn new(
        state: Arc<State>,
        boot_id: String,
        sshd: Sshd,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            state,
            boot_id,
            sshd,
            events,
            clients: Clients::default(),
            liveness: Liveness::default(),
            settings: None,
            quiesced: None,
            identity: None,
            say_later: None,
        }
    }

    async fn perform(&mut self, call: Call, read_at: Instant) -> anyhow::Result<Reply> {
        match call {
            Call::Hello { .. } => Ok(Reply::Hello(Hello {
                version: VERSION,
                phase: self.state.phase.get(),
                boot_id: self.boot_id.clone(),
            })),
            Call::Status => Ok(Reply::Status(Status {
                phase: self.state.phase.get(),
                activity: activity(&self.clients),
                docker_answers: self.docker_answers().await,
                docker_restarts: self.state.docker_restarts.load(Ordering::Relaxed),
                // Last, so that the answer is soon on its way.
                unix_time_ns: clock::unix_time_ns().ok(),
            })),
            Call::Logs { max_bytes } => Ok(Reply::Logs(logs::tails(max_bytes))),
            Call::Notice { mut message } => {
                cut(&mut message, MAX_NOTICE_BYTES);
                say!("notice: {message}");
                Ok(Reply::Noticed)
            }
            Call::MoveClock { by_ns } => {
                clock::move_by(by_ns).context("cannot set the clock")?;
                Ok(Reply::ClockMoved)
            }
            Call::Prepare(site) => {
                self.prepare(*site)?;
                Ok(Reply::Prepared)
            }
            Call::Quiesce => {
                self.quiesced = Some(quiesce::quiesce().await?);
                Ok(Reply::Quiesced)
            }
            Call::Activate(order) => Ok(Reply::Activated(Box::new(
                self.activate(&order, read_at).await?,
            ))),
            Call::Serve {
                cert_pem,
                client_ca_pem,
            } => {
                self.serve(&cert_pem, &client_ca_pem).await?;
                Ok(Reply::Serving)
            }
        }
    }

    async fn docker_answers(&mut self) -> bool {
        let traffic = self.clients.traffic();
        let seen = Seen {
            now: clock::coarse_since_boot(),
            idle: traffic.idle(),
            pending: traffic.pending(),
            restarts: self.state.docker_restarts.load(Ordering::Relaxed),
        };
        if !self.liveness.must_ask(seen) {
            return true;
        }
        let answers = docker::get(docker::PING, STATUS_PATIENCE).await.is_ok();
        // What a template's daemon said does not hold for a clone's.
        if self.state.phase.get() == Phase::Serving {
            self.liveness.asked(seen, answers);
        }
        answers
    }

    fn prepare(&mut self, site: Site) -> anyhow::Result<()> {
        if self.settings.is_some() {
            bail!("the Docker daemon has its configuration");
        }
        let fixed = site.fixed.clone();
        self.settings = Some(Settings::prepare(site)?);
        self.state.prepared.send_replace(Some(fixed));
        Ok(())
    }

    async fn activate(
        &mut self,
        order: &Activation,
        read_at: Instant,
    ) -> anyhow::Result<Activated> {
        let card = *self
            .state
            .card
            .get()
            .context("the network card is not ready")?;
        let settings = self.settings.as_mut().context("there are no settings")?;
        let settings = settings.change(&order.site, self.state.dockerd.get());
        let (activated, identity) =
            activate::activate(order, read_at, card, self.quiesced.as_mut(), settings).await?;
        self.identity = Some(identity);
        let (hostname, address) = (&activated.hostname, activated.address);
        let took_ms = read_at.elapsed().as_millis();
        self.say_later = Some(format!("{hostname} at {address} after {took_ms} ms"));
        Ok(activated)
    }

    async fn serve(&mut self, cert_pem: &str, client_ca_pem: &str) -> anyhow::Result<()> {
        let identity = self.identity.as_ref().context("there is no key")?;
        let configs = tls::server_configs(cert_pem, client_ca_pem, identity.key.clone_key())?;
        let place = (Ipv4Addr::UNSPECIFIED, DOCKER_PORT);
        let backends = Backends {
            docker: Path::new(docker::SOCKET).into(),
            sshd: self.sshd.clone(),
        };
        listener::start(place, configs, backends, self.clients.clone())
            .await
            .with_context(|| format!("cannot listen on port {DOCKER_PORT}"))?;
        // Only now: a template is not to wake up for it, nor is it anybody's concern before.
        let clients = self.clients.clone();
        tokio::spawn(disk::watch(self.events.clone(), move || {
            clients.count() > 0
        }));
        Ok(())
    }
}

impl Service for Agent {
    async fn answer(&mut self, call: Call, read_at: Instant) -> Result<Reply, Fault> {
        phase::admit(self.state.phase.get(), &call)?;
        let next = phase::target(&call);
        let reply = self
            .perform(call, read_at)
            .await
            .map_err(|error| failed(&error))?;
        if let Some(next) = next {
            self.state.phase.advance(next);
        }
        Ok(reply)
    }

    fn answered(&mut self) {
        if let Some(text) = self.say_later.take() {
            say!("{text}");
        }
    }
}

fn activity(clients: &Clients) -> Activity {
    let traffic = clients.traffic();
    // What cannot be counted is unknown, which is not idle.
    let running = cgroups::running(Path::new(cgroups::ROOT)).ok();
    let build_steps = running.as_ref().map_or(0, |running| running.build_steps);
    Activity {
        idle_ms: traffic
            .idle()
            .map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)),
        connections: clients.count(),
        requests_pending: traffic.pending(),
        builds_running: traffic.builds().max(build_steps),
        containers_running: running.map(|running| running.containers),
    }
}

fn failed(error: &anyhow::Error) -> Fault {
    let mut message = format!("{error:#}");
    cut(&mut message, MAX_FAULT_BYTES);
    Fault {
        code: FaultCode::Failed,
        message,
    }
}
