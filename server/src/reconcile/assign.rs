//! Hands a ready VM to a waiting lease: a certificate, a port, one transaction.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use remote_docker_api::StepTiming;
use time::OffsetDateTime;

use super::jobs::timing;
use super::{Reconciler, Trouble};
use crate::failpoint;
use crate::lease::{Grant, LeaseRow, VmRow};
use crate::relay::Reservation;
use crate::store::StoreError;

/// How much longer than its lease a client's certificate is good: clocks differ and are set, and the
/// relay ends the lease anyway.
const CERTIFICATE_MARGIN: Duration = Duration::from_secs(24 * 3600);

impl Reconciler {
    pub(super) async fn assign(
        &mut self,
        lease: &LeaseRow,
        vm: &VmRow,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let began = Instant::now();
        let Some(reservation) = self.reserve_port().await? else {
            return Ok(());
        };
        failpoint::hit("port-reserved");
        let Some(keyed) = self.memory.keyed.get(&vm.id) else {
            return Ok(());
        };
        let expires_at = now + Duration::from_secs(lease.ttl_s.into());
        // What others read goes by the clocks that they have.
        let wall = self.context.clock.wall();
        let until = wall + self.context.settings.longest_lease + CERTIFICATE_MARGIN;
        let signed =
            keyed
                .ca
                .sign_client(&lease.client_csr_pem, &lease.id.to_string(), wall, until);
        let cert_pem = match signed {
            Ok(cert_pem) => cert_pem,
            Err(error) => {
                // The request was checked when it came in, so this is a fault of ours.
                tracing::error!(lease = %lease.id, error = &error as &dyn std::error::Error, "{} gets no certificate", lease.id);
                return Ok(());
            }
        };
        let warm = keyed.began_at < lease.created_at;
        let mut timings = Vec::new();
        if !warm {
            timings.push(timing_between("queue", lease.created_at, keyed.began_at));
            timings.extend(keyed.steps.iter().cloned());
        }
        timings.push(timing("assign", began.elapsed()));
        let grant = Grant {
            vm: vm.id,
            port: reservation.port(),
            ca_pem: keyed.ca.ca_pem(),
            cert_pem,
            ready_at: now,
            expires_at,
            heartbeat_at: now,
            warned_of: None,
            warm,
            timings,
        };
        if self
            .context
            .store
            .assign(lease, vm, &grant, now)
            .await?
            .is_some()
        {
            failpoint::hit("lease-assigned");
            let after = Duration::try_from(now - lease.created_at).unwrap_or_default();
            self.metrics.lease_ready(after, warm, &grant.timings);
            tracing::info!(lease = %lease.id, vm = %vm.id, warm, "{} has {}", lease.id, vm.id);
            // The next round publishes the route; until then connections wait on the reserved port.
            self.reservations.push(reservation);
            // Only the machine's own guest needs the authority now, and it has its certificate.
            self.memory.keyed.remove(&vm.id);
        }
        Ok(())
    }

    /// Opens a port of the configured range that no lease has and no other process holds.
    async fn reserve_port(&self) -> Result<Option<Reservation>, StoreError> {
        // Those of leases that end are among them: one whose machine cannot be destroyed keeps its
        // port although nobody listens there.
        let taken = self.context.store.used_ports().await?;
        let ports = &self.context.settings.ports;
        for port in ports.clone().filter(|port| !taken.contains(port)) {
            match self.relay.reserve(port).await {
                Ok(reservation) => {
                    self.note(Trouble::Ports, None);
                    return Ok(Some(reservation));
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
                    return Ok(None);
                }
            }
        }
        let (first, last) = (ports.start(), ports.end());
        tracing::error!("no port of {first}-{last} is free: widen `relay.ports`");
        let why = format!("every port of the relay ({first}-{last}) is in use");
        self.note(Trouble::Ports, Some(why));
        Ok(None)
    }
}

fn timing_between(step: &str, from: OffsetDateTime, to: OffsetDateTime) -> StepTiming {
    timing(step, Duration::try_from(to - from).unwrap_or_default())
}
