//! What the server counts and measures, for `GET /metrics`.
//!
//! Whoever does something reports it here; what the rows of the store can tell (levels of the pool,
//! leases by state) is counted from them when somebody asks.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use remote_docker_api::{EndReason, StepTiming};

use crate::lease::{LeasePhase, LeaseRow, VmPhase, VmRow};

/// What [`Metrics::text`] writes. Prometheus reads it since its version 2.5.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const MIB: u64 = 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Step {
    step: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Warmth {
    warm: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Level {
    engine: String,
    size: String,
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All metrics of one server. To be shared; every method may be called at any time.
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    steps: Histograms<Step>,
    ready: Histograms<Warmth>,
    ended: Family<Reason, Counter>,
    rounds: Histogram,
    failures: Counter,
    looks: Counter,
    audit_written: Counter,
    audit_lost: Counter,
    audit_failures: Counter,
    vms: Family<Level, Gauge>,
    leases: Family<State, Gauge>,
    memory: Gauge,
    budget: Gauge<u64, AtomicU64>,
    #[cfg(test)]
    rounds_done: tokio::sync::watch::Sender<u64>,
    /// Held from the first gauge to the last byte: two that ask at once do not mix their counts.
    writing: Mutex<()>,
}

/// From a millisecond to half a minute and beyond: a warm claim, a clone, a cold boot.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 18))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics(..)")
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("remote_dockerd"),
            requests: Family::default(),
            steps: Family::new_with_constructor(durations),
            ready: Family::new_with_constructor(durations),
            ended: Family::default(),
            rounds: durations(),
            failures: Counter::default(),
            looks: Counter::default(),
            audit_written: Counter::default(),
            audit_lost: Counter::default(),
            audit_failures: Counter::default(),
            vms: Family::default(),
            leases: Family::default(),
            memory: Gauge::default(),
            budget: Gauge::default(),
            #[cfg(test)]
            rounds_done: tokio::sync::watch::Sender::new(0),
            writing: Mutex::new(()),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let to = &mut self.registry;
        let seconds = || Unit::Seconds;
        to.register(
            "http_requests",
            "Requests that were answered",
            self.requests.clone(),
        );
        to.register_with_unit(
            "start_step_duration",
            "How long each step of a machine's start took",
            seconds(),
            self.steps.clone(),
        );
        to.register_with_unit(
            "lease_ready_duration",
            "From the request for a lease until its machine was handed over",
            seconds(),
            self.ready.clone(),
        );
        to.register("leases_ended", "Leases that ended", self.ended.clone());
        to.register_with_unit(
            "reconcile_round_duration",
            "How long each round of the reconciler took",
            seconds(),
            self.rounds.clone(),
        );
        to.register(
            "reconcile_failures",
            "Rounds of the reconciler and actions on machines that failed",
            self.failures.clone(),
        );
        to.register(
            "event_looks",
            "Looks at the database by clients that follow events",
            self.looks.clone(),
        );
        to.register(
            "audit_records",
            "Lines that were written to the audit log",
            self.audit_written.clone(),
        );
        to.register(
            "audit_records_lost",
            "Lines that the audit log has not, because it could not be written for too long",
            self.audit_lost.clone(),
        );
        to.register(
            "audit_failures",
            "Times that the audit log could not be written",
            self.audit_failures.clone(),
        );
        to.register("vms", "Machines that are not gone", self.vms.clone());
        to.register("leases", "Leases that have not ended", self.leases.clone());
        to.register_with_unit(
            "vm_memory",
            "Memory that machines that are not gone may use",
            Unit::Bytes,
            self.memory.clone(),
        );
        to.register_with_unit(
            "vm_memory_budget",
            "Memory that all machines together may use",
            Unit::Bytes,
            self.budget.clone(),
        );
    }

    /// Says how much memory, in MiB, all machines together may use.
    pub fn set_memory_budget(&self, mib: u64) {
        self.budget.set(mib.saturating_mul(MIB));
    }

    /// A request was answered. `route` is the pattern, so that there are few.
    pub fn answered(&self, method: &Method, route: &str, status: u16) {
        // A client may send any word as the method.
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            Method::OPTIONS => "OPTIONS",
            _ => "other",
        };
        let request = Request {
            method,
            route: route.to_owned(),
            status,
        };
        self.requests.get_or_create(&request).inc();
    }

    /// A lease got its machine, so long after it was asked for; `warm` when the machine was ready
    /// before. The steps of a warm machine's start are counted with the lease that gets it.
    pub fn lease_ready(&self, after: Duration, warm: bool, steps: &[StepTiming]) {
        let warm = if warm { "true" } else { "false" };
        let ready = self.ready.get_or_create_owned(&Warmth { warm });
        ready.observe(after.as_secs_f64());
        for step in steps {
            let name = step.step.clone();
            let taken = Duration::from_millis(step.duration_ms);
            let step = self.steps.get_or_create_owned(&Step { step: name });
            step.observe(taken.as_secs_f64());
        }
    }

    /// A lease ended.
    pub fn lease_ended(&self, reason: EndReason) {
        // The word of the API.
        let word = serde_json::to_value(reason).ok();
        let word = word.as_ref().and_then(|word| word.as_str());
        let reason = word.unwrap_or("unknown").to_owned();
        self.ended.get_or_create(&Reason { reason }).inc();
    }

    /// The reconciler has gone round once.
    pub fn round(&self, taken: Duration) {
        self.rounds.observe(taken.as_secs_f64());
        #[cfg(test)]
        self.rounds_done.send_modify(|count| *count += 1);
    }

    /// Counts the rounds of the reconciler.
    #[cfg(test)]
    pub(crate) fn rounds(&self) -> tokio::sync::watch::Receiver<u64> {
        self.rounds_done.subscribe()
    }

    /// A round, or what it had begun to do with a machine, failed.
    pub fn failed(&self) {
        self.failures.inc();
    }

    /// Lines were written to the audit log.
    pub(crate) fn audit_written(&self, lines: u64) {
        self.audit_written.inc_by(lines);
    }

    /// Lines did not get into the audit log and never will.
    pub(crate) fn audit_lost(&self, lines: u64) {
        self.audit_lost.inc_by(lines);
    }

    /// The audit log could not be written.
    pub(crate) fn audit_failed(&self) {
        self.audit_failures.inc();
    }

    /// A client that follows events made the server look for new ones.
    pub(crate) fn looked_for_events(&self) {
        self.looks.inc();
    }

    #[cfg(test)]
    pub(crate) fn event_looks(&self) -> u64 {
        self.looks.get()
    }

    /// Everything as text, with the levels that these rows tell.
    ///
    /// # Errors
    /// None that is known; the library's interface has one.
    pub fn text(&self, vms: &[VmRow], leases: &[LeaseRow]) -> Result<String, fmt::Error> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.count_vms(vms);
        self.count_leases(leases);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn count_vms(&self, rows: &[VmRow]) {
        self.vms.clear();
        let mut bytes: i64 = 0;
        for row in rows {
            let level = Level {
                engine: row.key.engine.clone(),
                size: row.key.size.clone(),
                phase: match row.phase {
                    VmPhase::Planned => "planned",
                    VmPhase::Starting => "starting",
                    VmPhase::Activating => "activating",
                    VmPhase::Ready => "ready",
                    VmPhase::Assigned { .. } => "assigned",
                    VmPhase::Destroying { .. } => "destroying",
                    VmPhase::Gone { .. } => continue,
                },
            };
            self.vms.get_or_create(&level).inc();
            bytes += i64::from(row.memory_mib) * 1024 * 1024;
        }
        self.memory.set(bytes);
    }

    fn count_leases(&self, rows: &[LeaseRow]) {
        // Also at zero, so that a graph has a line.
        for state in ["waiting", "active", "ending"] {
            self.leases.get_or_create(&State { state }).set(0);
        }
        for row in rows {
            let state = match row.phase {
                LeasePhase::Ended { .. } => continue,
                _ if row.end_wish.is_some() => "ending",
                LeasePhase::Waiting => "waiting",
                LeasePhase::Active(_) => "active",
                LeasePhase::Ending { .. } => "ending",
            };
            self.leases.get_or_create(&State { state }).inc();
        }
    }
}
