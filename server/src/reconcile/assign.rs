//! Hands a ready VM to a waiting lease: a port, a certificate, one transaction.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use remote_docker_api::StepTiming;
use time::OffsetDateTime;

use super::jobs::{Context, timing};
use super::perform::Write;
use super::rows::{Handover, Wrote};
use super::{Reconciler, Trouble};
use crate::failpoint;
use crate::lease::{Grant, LeaseRow, VmRow};
use crate::numbers::Numbers;
use crate::pki::VmCa;
use crate::relay::Reservation;

/// How much longer than its lease a client's certificate is good: clocks differ and are set, and the
/// relay ends the lease anyway.
const CERTIFICATE_MARGIN: Duration = Duration::from_secs(24 * 3600);

impl Reconciler {
    /// `None` when it cannot be done now; the machine's wire has to be told first what the lease may reach.
    /// `ports` are those that are taken, and afterwards the lease's
    /// too.
    pub(super) async fn assign(
        &self,
        lease: &LeaseRow,
        vm: &VmRow,
        ports: &mut Numbers,
        now: OffsetDateTime,
    ) -> Option<Write> {
        let began = Instant::now();
        let reservation = self.reserve_port(ports).await?;
        failpoint::hit("port-reserved");
        let keyed = self.memory.keyed.get(&vm.id)?;
        let admitted = self.memory.admitted(vm.id, lease.egress)?;
        let expires_at = now + Duration::from_secs(lease.ttl_s.into());
        let cert_pem = match &admitted.signed {
            Some((of, cert_pem)) if *of == lease.id => cert_pem.clone(),
            // It was to be another's when its wire was told.
            _ => sign(&self.context, &keyed.ca, lease)?,
        };
        let warm = keyed.began_at < lease.created_at;
        let mut timings = Vec::new();
        if !warm {
            timings.push(timing_between("queue", lease.created_at, keyed.began_at));
            timings.extend(keyed.steps.iter().cloned());
        }
        timings.push(timing("assign", admitted.took + began.elapsed()));
        let grant = Grant {
            vm: vm.id,
            port: reservation.port(),
            ca_pem: keyed.ca.ca_pem(),
            cert_pem,
            ssh_host_key: keyed.ssh_host_key.clone(),
            ready_at: now,
            expires_at,
            heartbeat_at: now,
            warned_of: None,
            warm,
            timings,
        };
        let (store, lease, vm) = (self.store(), lease.clone(), vm.clone());
        Some(Box::pin(async move {
            let assigned = store.assign(&lease, &vm, &grant, now).await?;
            let handover = Handover {
                lease: lease.id,
                vm: vm.id,
                reservation,
                after: Duration::try_from(now - lease.created_at).unwrap_or_default(),
                warm,
                timings: grant.timings,
            };
            Ok(assigned.map_or(Wrote::Nothing, |_| Wrote::Handover(Box::new(handover))))
        }))
    }

    /// Opens a port of the configured range that is not taken and that no other process holds.
    async fn reserve_port(&self, taken: &mut Numbers) -> Option<Reservation> {
        let ports = &self.context.settings.ports;
        while let Some(port) = taken.lowest_free(ports.clone()) {
            taken.insert(port);
            match self.relay.reserve(port).await {
                Ok(reservation) => {
                    self.note(Trouble::Ports, None);
                    return Some(reservation);
                }
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                Err(error) => {
                    tracing::error!(
                        port,
                        error = &error as &dyn std::error::Error,
                        "port {port} cannot be opened"
                    );
                    let why = format!("port {port} cannot be opened: {error}");
                    self.note(Trouble::Ports, Some(why));
                    return None;
                }
            }
        }
        let (first, last) = (ports.start(), ports.end());
        tracing::error!("no port of {first}-{last} is free: widen `relay.ports`");
        let why = format!("every port of the relay ({first}-{last}) is in use");
        self.note(Trouble::Ports, Some(why));
        None
    }
}

/// Signs a lease's request, so that its holder is let in.
pub(super) fn sign(context: &Context, ca: &VmCa, lease: &LeaseRow) -> Option<String> {
    // What others read goes by the clocks that they have.
    let wall = context.clock.wall();
    let until = wall + context.settings.longest_lease + CERTIFICATE_MARGIN;
    let name = lease.id.to_string();
    let signed = ca.sign_client(&lease.client_csr_pem, &name, wall, until);
    signed
        .inspect_err(|error| {
            // The request was checked when it came in, so this is a fault of ours.
            tracing::error!(lease = %lease.id, error = error as &dyn std::error::Error, "{} gets no certificate", lease.id);
        })
        .ok()
}

fn timing_between(step: &str, from: OffsetDateTime, to: OffsetDateTime) -> StepTiming {
    timing(step, Duration::try_from(to - from).unwrap_or_default())
}
