//! What the server may ask for, done.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use guest_protocol::{
    Activated, Activation, Call, DOCKER_PORT, Fault, FaultCode, Hello, Reply, Status, VERSION,
};

use crate::channel::Service;
use crate::console::say;
use crate::keys::TlsIdentity;
use crate::kmsg::Mark;
use crate::listener::{self, Clients};
use crate::phase::{self, PhaseCell};
use crate::{activate, docker, quiesce, tls};

/// How long the daemon may take to answer when somebody asks whether it does.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);

/// Longest text of a fault, in bytes.
const MAX_FAULT_BYTES: usize = 500;

/// The state that calls build on.
pub(crate) struct Agent {
    pub(crate) phase: Arc<PhaseCell>,
    pub(crate) boot_id: String,
    pub(crate) docker_restarts: Arc<AtomicU32>,
    clients: Clients,
    /// Where the kernel's log ended when the guest was made ready to be copied.
    quiesced: Option<Mark>,
    /// Made at the activation, used when the certificate comes.
    identity: Option<TlsIdentity>,
}

impl Agent {
    pub(crate) fn new(
        phase: Arc<PhaseCell>,
        boot_id: String,
        docker_restarts: Arc<AtomicU32>,
    ) -> Self {
        let clients = Clients::default();
        Self {
            phase,
            boot_id,
            docker_restarts,
            clients,
            quiesced: None,
            identity: None,
        }
    }

    async fn perform(&mut self, call: Call, read_at: Instant) -> anyhow::Result<Reply> {
        match call {
            Call::Hello { .. } => Ok(Reply::Hello(Hello {
                version: VERSION,
                phase: self.phase.get(),
                boot_id: self.boot_id.clone(),
            })),
            Call::Status => Ok(Reply::Status(Status {
                phase: self.phase.get(),
                docker_answers: docker::get(docker::PING, STATUS_PATIENCE).await.is_ok(),
                docker_restarts: self.docker_restarts.load(Ordering::Relaxed),
                connections: self.clients.count(),
            })),
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

    async fn activate(
        &mut self,
        order: &Activation,
        read_at: Instant,
    ) -> anyhow::Result<Activated> {
        let (activated, identity) =
            activate::activate(order, read_at, self.quiesced.take()).await?;
        self.identity = Some(identity);
        say!(
            "{} at {} in {} ms",
            activated.hostname,
            activated.address,
            read_at.elapsed().as_millis()
        );
        Ok(activated)
    }

    async fn serve(&mut self, cert_pem: &str, client_ca_pem: &str) -> anyhow::Result<()> {
        let identity = self.identity.as_ref().context("there is no key")?;
        let config = tls::server_config(cert_pem, client_ca_pem, identity.key.clone_key())?;
        let place = (Ipv4Addr::UNSPECIFIED, DOCKER_PORT);
        listener::start(
            place,
            config,
            Path::new(docker::SOCKET).into(),
            self.clients.clone(),
        )
        .await
        .with_context(|| format!("cannot listen on port {DOCKER_PORT}"))?;
        Ok(())
    }
}

impl Service for Agent {
    async fn answer(&mut self, call: Call, read_at: Instant) -> Result<Reply, Fault> {
        phase::admit(self.phase.get(), &call)?;
        let next = phase::target(&call);
        let reply = self
            .perform(call, read_at)
            .await
            .map_err(|error| failed(&error))?;
        if let Some(next) = next {
            self.phase.advance(next);
        }
        Ok(reply)
    }

    fn answered(&mut self) {}
}

fn failed(error: &anyhow::Error) -> Fault {
    let mut message = format!("{error:#}");
    let end = message.floor_char_boundary(MAX_FAULT_BYTES);
    message.truncate(end);
    Fault {
        code: FaultCode::Failed,
        message,
    }
}

/// The daemon answers for the first time.
pub(crate) async fn docker_ready() {
    const POLL: Duration = Duration::from_millis(25);
    const PATIENCE: Duration = Duration::from_secs(60);
    // The socket is there before the daemon serves, and a connection to it then waits for that.
    while docker::get(docker::PING, PATIENCE).await.is_err() {
        tokio::time::sleep(POLL).await;
    }
}
