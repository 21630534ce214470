//! Rows that the loop itself writes, and what follows when they are written.

use std::sync::Arc;
use std::time::Duration;

use remote_docker_api::{EndReason, EventKind, LeaseId, StepTiming};
use time::OffsetDateTime;

use super::jobs::Context;
use super::perform::Write;
use super::{Reconciler, outcome};
use crate::clock::random_bytes;
use crate::failpoint;
use crate::ids::VmId;
use crate::lease::{Budget, Cause, DestroyReason, LeasePhase, LeaseRow, PoolKey, VmPhase, VmRow};
use crate::relay::Reservation;
use crate::store::Store;

/// What was written. A lost race is [`Wrote::Nothing`]: the next round looks again.
#[derive(Debug)]
pub(super) enum Wrote {
    Nothing,
    Ending(LeaseId, EndReason),
    Ended(LeaseId),
    Warning {
        lease: LeaseId,
        vm: Option<VmId>,
        text: String,
    },
    Handover(Box<Handover>),
    Planned(VmId, PoolKey),
    Destroying(VmId, DestroyReason),
}

/// A lease that has its machine now.
#[derive(Debug)]
pub(super) struct Handover {
    pub(super) lease: LeaseId,
    pub(super) vm: VmId,
    pub(super) reservation: Reservation,
    /// How long after it was asked for.
    pub(super) after: Duration,
    pub(super) warm: bool,
    pub(super) timings: Vec<StepTiming>,
}

pub(super) fn progress(
    store: Arc<Store>,
    progress: Vec<(LeaseId, EventKind)>,
    now: OffsetDateTime,
) -> Write {
    Box::pin(async move {
        store.note_progress(&progress, now).await?;
        Ok(Wrote::Nothing)
    })
}

pub(super) fn finish(store: Arc<Store>, lease: &LeaseRow, now: OffsetDateTime) -> Write {
    let lease = lease.clone();
    Box::pin(async move {
        let ended = store.finish_lease(&lease, now).await?;
        Ok(ended.map_or(Wrote::Nothing, |_| Wrote::Ended(lease.id)))
    })
}

pub(super) fn warn(
    store: Arc<Store>,
    lease: &LeaseRow,
    of: OffsetDateTime,
    cause: Cause,
    now: OffsetDateTime,
) -> Write {
    let seconds = (of - now).whole_seconds().max(0);
    let text = match cause {
        Cause::Expiry => format!("its time is over in {seconds} s unless it is extended"),
        Cause::Idleness => format!("it ends in {seconds} s unless it is used"),
    };
    let lease = lease.clone();
    Box::pin(async move {
        let warned = store.warn(&lease, of, &text, now).await?;
        let vm = lease.machine();
        let lease = lease.id;
        Ok(warned.map_or(Wrote::Nothing, |_| Wrote::Warning { lease, vm, text }))
    })
}

/// `None` when no id can be drawn for it.
pub(super) fn create(
    store: Arc<Store>,
    key: PoolKey,
    memory_mib: u32,
    budget: Budget,
    now: OffsetDateTime,
) -> Option<Write> {
    let id = VmId::from_bits(u64::from_ne_bytes(random_bytes().ok()?));
    Some(Box::pin(async move {
        let made = store.create_vm(id, &key, memory_mib, now, &budget).await?;
        Ok(made.map_or(Wrote::Nothing, |_| Wrote::Planned(id, key)))
    }))
}

pub(super) fn destroy(
    context: Context,
    vm: &VmRow,
    reason: DestroyReason,
    now: OffsetDateTime,
) -> Write {
    let vm = vm.clone();
    Box::pin(async move {
        if reason == DestroyReason::Lost {
            outcome::lost(&context, vm.id).await;
        }
        let next = VmPhase::Destroying { reason };
        let marked = context.store.advance_vm(&vm, next, now).await?;
        Ok(marked.map_or(Wrote::Nothing, |_| Wrote::Destroying(vm.id, reason)))
    })
}

impl Reconciler {
    pub(super) fn store(&self) -> Arc<Store> {
        self.context.store.clone()
    }

    pub(super) fn end(&self, lease: &LeaseRow, reason: EndReason, now: OffsetDateTime) -> Write {
        let (known, lost) = match (reason, &lease.phase) {
            (EndReason::StartFailed, _) => (self.memory.last_words(&lease.key), None),
            (EndReason::VmLost, LeasePhase::Active(grant)) => (None, Some(grant.vm)),
            _ => (None, None),
        };
        let (known, lease) = (known.map(str::to_owned), lease.clone());
        let context = self.context.clone();
        Box::pin(async move {
            let detail = match lost {
                Some(vm) => Some(outcome::lost(&context, vm).await),
                None => known,
            };
            let ended = context
                .store
                .end_lease(&lease, reason, detail.as_deref(), now)
                .await?;
            Ok(ended.map_or(Wrote::Nothing, |_| Wrote::Ending(lease.id, reason)))
        })
    }

    /// Does what follows from a row that was written.
    pub(super) fn has_written(&mut self, wrote: Wrote) {
        match wrote {
            Wrote::Nothing => {}
            Wrote::Ending(lease, reason) => {
                failpoint::hit("lease-ending");
                self.metrics.lease_ended(reason);
                tracing::info!(%lease, ?reason, "{lease} ends: {reason:?}");
            }
            Wrote::Ended(lease) => {
                failpoint::hit("lease-ended");
                tracing::info!(%lease, "{lease} has ended");
            }
            Wrote::Warning { lease, vm, text } => {
                tracing::info!(%lease, "{lease} is warned: {text}");
                if let Some(vm) = vm {
                    self.notify(vm, format!("this machine: {text}"));
                }
            }
            Wrote::Handover(handover) => {
                let Handover {
                    lease,
                    vm,
                    reservation,
                    after,
                    warm,
                    timings,
                } = *handover;
                failpoint::hit("lease-assigned");
                self.metrics.lease_ready(after, warm, &timings);
                tracing::info!(%lease, %vm, warm, "{lease} has {vm}");
                // The next round publishes the route; until then connections wait on the reserved
                // port.
                self.reservations.push(reservation);
                // Only the machine's own guest needs the authority now, and it has its certificate.
                self.memory.keyed.remove(&vm);
                self.memory.admitted.remove(&vm);
            }
            Wrote::Planned(vm, key) => {
                failpoint::hit("vm-created");
                tracing::info!(%vm, engine = key.engine, size = key.size, "{vm} is planned");
            }
            Wrote::Destroying(vm, reason) => {
                tracing::info!(%vm, ?reason, "{vm} is destroyed: {reason:?}");
            }
        }
    }

    /// Has a line written on a guest's console. The loop does not wait for it, and a guest that does
    /// not do it is no trouble of anybody else.
    fn notify(&self, vm: VmId, text: String) {
        let guests = self.memory.guests.clone();
        tokio::spawn(async move {
            if let Err(error) = guests.notice(vm, text).await {
                tracing::debug!(%vm, error = &error as &dyn std::error::Error, "{vm} got no notice");
            }
        });
    }
}
