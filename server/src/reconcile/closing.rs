//! How a server comes to its end: what is still wanted of it then, as a change to what the planner
//! is told. The planner itself does not know that the server stops.

use std::time::Duration;

use remote_docker_api::EndReason;
use time::OffsetDateTime;

use super::jobs::{Outcome, tear_down};
use super::{Reconciler, Work};
use crate::lease::{LeasePhase, LeaseRow, Policy, Snapshot, VmPhase, VmRow};

/// How long taking away what serves nobody may last.
pub(super) const LEAVE_LIMIT: Duration = Duration::from_secs(10);

/// How long a drained server may take to destroy its last machines.
const DRAIN_GRACE: Duration = Duration::from_secs(60);

/// What the server is about to do with itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    /// It goes on.
    Serving,
    /// It stops; machines of active leases stay for its next start, and nothing else.
    Leaving,
    /// It takes no more leases, ends those there are at this moment, and stops when nothing is left.
    Draining { until: OffsetDateTime },
}

impl Course {
    /// Makes `snapshot` and `policy` say what is wanted on this course.
    pub(super) fn shape(self, now: OffsetDateTime, snapshot: &mut Snapshot, policy: &mut Policy) {
        match self {
            Self::Serving => return,
            Self::Leaving => {
                for lease in &mut snapshot.leases {
                    // The API has answered all who waited; the next start would see it likewise.
                    if lease.phase == LeasePhase::Waiting && lease.attended {
                        lease.end_wish.get_or_insert(EndReason::ClientGone);
                    }
                }
                // The others wait for the next start.
                let waits = |phase: &LeasePhase| *phase == LeasePhase::Waiting;
                snapshot
                    .leases
                    .retain(|lease| !waits(&lease.phase) || lease.end_wish.is_some());
            }
            Self::Draining { until } => {
                for lease in &mut snapshot.leases {
                    let ends = match lease.phase {
                        LeasePhase::Waiting => true,
                        LeasePhase::Active(_) => now >= until,
                        LeasePhase::Ending { .. } | LeasePhase::Ended { .. } => false,
                    };
                    if ends {
                        lease.end_wish.get_or_insert(EndReason::Drained);
                    }
                }
            }
        }
        policy.targets.clear();
        policy.prebuild.clear();
        policy.surplus_after = time::Duration::ZERO;
    }

    /// The moment at which it changes what is wanted.
    pub(super) fn deadline(self) -> Option<OffsetDateTime> {
        match self {
            Self::Draining { until } => Some(until),
            Self::Serving | Self::Leaving => None,
        }
    }

    /// Whether rows say that there is nothing more to do on this course.
    fn is_over(self, snapshot: &Snapshot) -> bool {
        match self {
            Self::Serving => false,
            Self::Leaving => {
                let is_held = |vm: &VmRow| matches!(vm.phase, VmPhase::Assigned { .. });
                // Who waits without holding the line waits for the next start.
                let stays = |lease: &LeaseRow| match lease.phase {
                    LeasePhase::Active(_) => true,
                    LeasePhase::Waiting => !lease.attended && lease.end_wish.is_none(),
                    LeasePhase::Ending { .. } | LeasePhase::Ended { .. } => false,
                };
                snapshot.vms.iter().all(is_held) && snapshot.leases.iter().all(stays)
            }
            Self::Draining { .. } => snapshot.vms.is_empty() && snapshot.leases.is_empty(),
        }
    }
}

impl Reconciler {
    /// Turns to leaving or draining: calls off whatever makes machines, as nobody will want them.
    /// What they were about is found like that of a server that was killed, and taken away.
    pub(super) fn begin_closing(&mut self) {
        let limit = match self.context.settings.drain {
            None => {
                self.course = Course::Leaving;
                tracing::info!(
                    "told to stop: machines of active leases stay for the next start, all others go"
                );
                LEAVE_LIMIT
            }
            Some(drain) => {
                let until = self.context.clock.now() + drain;
                self.course = Course::Draining { until };
                let drain_s = drain.as_secs();
                tracing::info!(
                    drain_s,
                    "told to stop: no new leases; those there are may go on for {drain_s} s"
                );
                let why = format!(
                    "is being drained: takes no new leases and ends the others in {drain_s} s"
                );
                self.set_status(|status| status.closing = Some(why));
                drain + DRAIN_GRACE
            }
        };
        self.ends_at = tokio::time::Instant::now().checked_add(limit);
        for (id, job) in std::mem::take(&mut self.jobs) {
            if matches!(job.work, Work::TakesAway | Work::Resumes | Work::Readmits) {
                self.jobs.insert(id, job);
                continue;
            }
            job.handle.abort();
            self.memory.busy_vms.remove(&job.vm);
            // A machine that was to become a template has no row by which it could be found.
            if job.work == Work::BuildsTemplate {
                let destroy = tear_down(self.context.clone(), job.vm, None);
                self.spawn(job.vm, Work::TakesAway, destroy);
            }
        }
        self.memory.started.clear();
    }

    /// Whether the course has come to its end.
    pub(super) fn is_over(&self, snapshot: &Snapshot) -> bool {
        self.course.is_over(snapshot)
            && self.memory.busy_vms.is_empty()
            && self.memory.stuck.is_empty()
    }

    /// Ends what the loop still has running, and counts the machines that should be gone and are not.
    pub(super) async fn close(&mut self) -> usize {
        self.memory.monitors.clear();
        if let Err(error) = self.templates.sweep_unfinished() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a half-built template is left for the next start to sweep"
            );
        }
        let left = match self.context.store.snapshot().await {
            Ok((vms, _)) => vms
                .iter()
                .filter(|vm| match self.course {
                    Course::Draining { .. } => true,
                    _ => !matches!(vm.phase, VmPhase::Assigned { .. }),
                })
                .count(),
            Err(_) => 0,
        };
        let left = left.max(self.memory.busy_vms.len());
        if left > 0 {
            tracing::warn!(
                machines = left,
                "stopped before {left} machines were gone; the next start takes them away"
            );
        }
        left
    }

    /// Whether what a job came to is of no use any more.
    pub(super) fn is_too_late(&self, outcome: &Outcome) -> bool {
        self.course != Course::Serving
            && matches!(
                outcome,
                Outcome::Started { result: Ok(_), .. } | Outcome::Activated { result: Ok(_), .. }
            )
    }
}
