//! A lease that this process holds: how it is got, and how it is given back.

use std::collections::BTreeMap;
use std::time::Duration;

use remote_docker_api::{CreateLease, Lease, LeaseId, LeaseState};
use tokio::time::Instant;

use crate::args::LeaseArgs;
use crate::client::{ApiError, Client, NotLeased};
use crate::config::{self, LeaseAccess, Settings};
use crate::docker::DockerError;
use crate::docker::plan::Plan;
use crate::environment::Environment;
use crate::error::CliError;
use crate::exports::{self, Change};
use crate::keys::ClientKey;
use crate::lease_dir::{Base, LeaseDir};
use crate::output::{Ready, end_reason, is_docker_host, moment};
use crate::progress::follow;
use crate::signals::{Caught, Signals};
use crate::ssh;
use crate::ui::{Ui, in_one_line};

/// What every command has at hand.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    pub(crate) environment: Environment,
    pub(crate) ui: Ui,
}

/// What a command asks of its lease beside what [`LeaseArgs`] say.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Terms<'a> {
    /// How often heartbeats are expected.
    pub(crate) keepalive: Option<Duration>,
    /// What the server is to know the request by.
    pub(crate) idempotency_key: Option<&'a str>,
    /// What is to be made in docker's own configuration.
    pub(crate) docker: Option<&'a Plan>,
}

/// An active lease with its folder written.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) lease: Lease,
    docker_host: String,
    changes: Vec<Change>,
    docker: Option<Plan>,
    dir: LeaseDir,
}

impl Context {
    /// Loads the settings; `lease` as for [`config::load`].
    ///
    /// # Errors
    /// As [`config::load`].
    pub(crate) fn new(
        flags: &crate::args::GlobalArgs,
        environment: Environment,
        lease: &LeaseAccess,
    ) -> Result<Self, CliError> {
        let ui = Ui::new(flags.quiet, environment.dumb_terminal);
        let settings = config::load(flags, &environment, lease)?;
        for warning in &settings.warnings {
            ui.warn(warning);
        }
        if settings.server.is_open() {
            ui.note(&format!(
                "note: the token goes to {} unencrypted, as REMOTE_DOCKER_ALLOW_PLAINTEXT or `allow_plaintext` says",
                settings.server
            ));
        }
        Ok(Self {
            client: Client::new(&settings),
            settings,
            environment,
            ui,
        })
    }

    /// Puts docker's configuration back; failures are warnings.
    pub(crate) async fn put_docker_back(&self, plan: &Plan, lease: LeaseId) {
        for error in plan.undo(lease).await {
            self.ui.warn(&in_one_line(&error));
        }
    }

    /// Gives a lease back; a failure is a warning, as whatever failed before matters more.
    pub(crate) async fn give_back(&self, lease: LeaseId, expires: Option<&Lease>) {
        let Err(error) = self.client.release_with_patience(lease).await else {
            return;
        };
        let held = |lease: &Lease| (lease.keepalive_s, lease.expires_at);
        let end = match expires.map(held) {
            Some((Some(seconds), _)) => {
                format!(
                    "it ends when it got no heartbeat for {seconds} s, and it gets none any more"
                )
            }
            Some((None, Some(at))) => format!("it expires at {}", moment(at)),
            _ => "it ends when its time is over".to_owned(),
        };
        self.ui.warn(&format!(
            "the lease {lease} could not be given back; {end} ({})",
            in_one_line(&error)
        ));
    }
}

impl Session {
    /// Asks for a lease, waits for its machine and writes its folder. Whatever goes wrong after
    /// the server made a lease, the lease is given back.
    ///
    /// # Errors
    /// No lease could be had or used, or a signal came.
    pub(crate) async fn open(
        context: &Context,
        args: &LeaseArgs,
        terms: Terms<'_>,
        signals: &mut Signals,
    ) -> Result<Self, CliError> {
        // What can fail here is tried before a machine is taken.
        let base = Base::prepare(&context.environment)?;
        let key = ClientKey::generate()?;
        let request = request(&context.settings, args, terms, &key)?;

        let asked_at = Instant::now();
        let client = &context.client;
        let created = tokio::select! {
            biased;
            created = client.create(&request, terms.idempotency_key, signals.next()) => created,
            never = follow(client, key.csr_pem(), context.ui) => match never {},
        };
        context.ui.end_status();
        let lease = match created {
            Ok(lease) => lease,
            Err(NotLeased::Failed(error)) => {
                if let ApiError::Unusable {
                    lease: Some(id), ..
                } = &error
                {
                    context.give_back(*id, None).await;
                }
                return Err(error.into());
            }
            Err(NotLeased::GivenUp(caught, late)) => {
                if let Some(id) = late {
                    context.give_back(id, None).await;
                }
                return Err(CliError::Interrupted(caught.signal));
            }
        };
        let took = asked_at.elapsed();
        match Self::settle(context, &base, &key, terms.docker, &lease) {
            Ok((docker_host, changes, dir)) => {
                let session = Self {
                    lease,
                    docker_host,
                    changes,
                    docker: terms.docker.cloned(),
                    dir,
                };
                if let Some(Caught { signal, .. }) = signals.arrived() {
                    session.close(context).await;
                    return Err(CliError::Interrupted(signal));
                }
                session.announce(context.ui, took);
                Ok(session)
            }
            Err(error) => {
                context.give_back(lease.id, Some(&lease)).await;
                Err(error)
            }
        }
    }

    fn settle(
        context: &Context,
        base: &Base,
        key: &ClientKey,
        plan: Option<&Plan>,
        lease: &Lease,
    ) -> Result<(String, Vec<Change>, LeaseDir), CliError> {
        let unusable = |what| CliError::from(context.client.unusable(what, Some(lease.id)));
        if matches!(lease.state, LeaseState::Ending | LeaseState::Ended) {
            // Only a request that was sent twice is answered so.
            return Err(CliError::Over {
                lease: lease.id,
                why: end_reason(lease.end_reason),
            });
        }
        if lease.state != LeaseState::Active {
            return Err(unusable("the lease in it is not active"));
        }
        let Some(docker) = &lease.docker else {
            return Err(unusable("it does not say where the Docker daemon is"));
        };
        if !is_docker_host(&docker.host) {
            return Err(unusable(
                "its Docker host is not of the form tcp://HOST:PORT",
            ));
        }
        if lease.ssh.as_ref().is_some_and(|ssh| !ssh::is_usable(ssh)) {
            return Err(unusable("what it says about SSH makes no sense"));
        }
        let certificates = key.accept(docker)?;
        let changes = exports::changes(&docker.host, &context.environment);
        let server = context.client.server();
        let key = key.key_pem();
        let dir = base.write(lease, server, &certificates, &key, &changes, plan)?;
        Ok((docker.host.clone(), changes, dir))
    }

    fn announce(&self, ui: Ui, took: Duration) {
        let expires = match self.lease.expires_at {
            Some(at) => format!(", expires at {}", moment(at)),
            None => String::new(),
        };
        ui.note(&format!(
            "lease {} ready in {:.1} s{expires}",
            self.lease.id,
            took.as_secs_f64()
        ));
    }

    /// What the outside needs to use the lease.
    pub(crate) fn ready(&self) -> Ready<'_> {
        Ready {
            lease: &self.lease,
            docker_host: &self.docker_host,
            cert_path: self.dir.path(),
            changes: &self.changes,
        }
    }

    /// Makes what was planned in docker's own configuration.
    ///
    /// # Errors
    /// It could not be made; [`Self::close`] puts back what was.
    pub(crate) async fn set_docker_up(&self) -> Result<(), DockerError> {
        match &self.docker {
            Some(plan) => {
                plan.carry_out(self.lease.id, &self.docker_host, self.dir.path())
                    .await
            }
            None => Ok(()),
        }
    }

    /// Puts docker's configuration back, removes the folder and gives the lease back. All are tried;
    /// failures are warnings.
    pub(crate) async fn close(self, context: &Context) {
        if let Some(plan) = &self.docker {
            context.put_docker_back(plan, self.lease.id).await;
        }
        if let Err(error) = self.dir.remove() {
            context.ui.warn(&in_one_line(&error));
        }
        context.give_back(self.lease.id, Some(&self.lease)).await;
    }
}

fn request(
    settings: &Settings,
    args: &LeaseArgs,
    terms: Terms<'_>,
    key: &ClientKey,
) -> Result<CreateLease, CliError> {
    let mut labels = BTreeMap::new();
    for (key, value) in &args.labels {
        if labels.insert(key.clone(), value.clone()).is_some() {
            return Err(CliError::TwiceLabelled(key.clone()));
        }
    }
    Ok(CreateLease {
        engine: args.engine.clone().or_else(|| settings.engine.clone()),
        size: args.size.clone().or_else(|| settings.size.clone()),
        ttl_s: args.ttl.or(settings.ttl).map(whole_seconds),
        wait_s: Some(whole_seconds(args.wait.unwrap_or(settings.wait))),
        keepalive_s: terms.keepalive.map(whole_seconds),
        idle_s: args.idle.map(whole_seconds),
        egress: args.egress,
        client_csr_pem: key.csr_pem().to_owned(),
        labels,
    })
}

/// Rounds up, so that half a second does not become none.
pub(crate) fn whole_seconds(duration: Duration) -> i64 {
    let part = u64::from(duration.subsec_nanos() > 0);
    let rounded = duration.as_secs().saturating_add(part);
    i64::try_from(rounded).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_second_counts_as_one() {
        for (millis, seconds) in [(0, 0), (1, 1), (1000, 1), (1001, 2)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
        assert_eq!(whole_seconds(Duration::from_secs(u64::MAX)), i64::MAX);
    }
}
