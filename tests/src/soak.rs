//! Leases made and given back again and again, and what that leaves on the host: nothing.
//!
//! Counts are compared with the most that was seen while the server warmed up, and waited for: what
//! goes away by itself, such as a thread that nobody needed for a while, has not leaked. Memory never
//! stands still, so medians of many looks are compared.

use std::time::{Duration, Instant};

use remote_docker_api::LeaseState;

use crate::TestServer;
use crate::footprint::{Footprint, audit_bytes, database_bytes, own_memory_kib};

/// How much of the database one lease may take, in bytes: leases that ended are kept for a day.
const DATABASE_BYTES_PER_LEASE: u64 = 16 * 1024;

/// How much of the audit log one lease may take, in bytes: a line each for what was asked, its begin and its end.
const AUDIT_BYTES_PER_LEASE: u64 = 2 * 1024;

/// How large the database's journal may become, in bytes: it is begun anew when it has 4096 pages of 4 KiB,
/// as soon as nobody reads in it; each has a head in the file, and a transaction is written whole.
const JOURNAL_BYTES: u64 = 17 << 20;

/// How long what goes away by itself may take.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(500);

/// How often.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Cycles before anything is compared.
    pub warm_up: usize,
    /// Cycles after that.
    pub cycles: usize,
    /// By how much the server's memory may grow, in hundredths. It takes some thirty cycles until all that
    /// is kept for the next lease is there.
    pub memory_percent: u64,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was to be done.
    pub plan: Plan,
    /// The most that was seen in the second half of the warm-up.
    pub before: Footprint,
    /// What there was at the end, once it had settled.
    pub after: Footprint,
    /// What the server had of memory of its own after each cycle, in KiB.
    pub memory_kib: Vec<u64>,
    /// By how much the database grew, in bytes.
    pub database_bytes: u64,
    /// How large its journal is, in bytes.
    pub journal_bytes: u64,
    /// By how much the audit log grew, in bytes.
    pub audit_bytes: u64,
    /// How long the cycles took, without the warm-up.
    pub took: Duration,
}

/// Makes a lease, uses its machine, gives it back; again and again. Calls `done` after each.
///
/// # Panics
/// When one fails.
pub fn run(server: &TestServer, plan: Plan, mut done: impl FnMut(usize)) -> Outcome {
    let mut before = Footprint::default();
    for number in 1..=plan.warm_up {
        cycle(server);
        done(number);
        if number > plan.warm_up / 2 {
            before = before.most(Footprint::of(server));
        }
    }
    let (database, _) = database_bytes(&server.state());
    let audit = audit_bytes(&server.state());
    let begun = Instant::now();
    let memory_kib = (1..=plan.cycles).map(|number| {
        cycle(server);
        done(plan.warm_up + number);
        own_memory_kib(server.pid())
    });
    let memory_kib = memory_kib.collect();
    let took = begun.elapsed();
    let after = settled(server, before);
    let (database_now, journal_bytes) = database_bytes(&server.state());
    Outcome {
        plan,
        before,
        after,
        memory_kib,
        database_bytes: database_now.saturating_sub(database),
        journal_bytes,
        audit_bytes: audit_bytes(&server.state()).saturating_sub(audit),
        took,
    }
}

fn cycle(server: &TestServer) {
    let machine = server.lease();
    machine.docker().ok(["version"]);
    server.api().release(machine.id());
    server.wait_state(machine.id(), LeaseState::Ended);
}

/// What there is once it is no more than `before`, or after a while.
fn settled(server: &TestServer, before: Footprint) -> Footprint {
    let begun = Instant::now();
    loop {
        let now = Footprint::of(server);
        if now.growth_since(before).is_empty() || begun.elapsed() > SETTLE_LIMIT {
            return now;
        }
        std::thread::sleep(PACE);
    }
}

impl Outcome {
    /// Medians of the server's memory in the first and in the last third of the cycles, in KiB.
    ///
    /// # Panics
    /// When there were fewer than three cycles.
    #[must_use]
    pub fn memory_medians_kib(&self) -> (u64, u64) {
        let third = self.memory_kib.len() / 3;
        let first = &self.memory_kib[..third];
        let last = &self.memory_kib[self.memory_kib.len() - third..];
        (median(first), median(last))
    }

    /// Everything that grew although it must not, in words; empty is good.
    ///
    /// # Panics
    /// When there were fewer than three cycles.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.after.growth_since(self.before);
        let (first, last) = self.memory_medians_kib();
        if last * 100 >= first * (100 + self.plan.memory_percent) {
            faults.push(format!("memory: {first} KiB before, {last} KiB now"));
        }
        let leases = self.memory_kib.len() as u64;
        if self.database_bytes > leases * DATABASE_BYTES_PER_LEASE {
            let bytes = self.database_bytes;
            faults.push(format!("database: {bytes} bytes more for {leases} leases"));
        }
        if self.audit_bytes > leases * AUDIT_BYTES_PER_LEASE {
            let bytes = self.audit_bytes;
            faults.push(format!("audit log: {bytes} bytes more for {leases} leases"));
        }
        if self.journal_bytes > JOURNAL_BYTES {
            faults.push(format!(
                "the database's journal: {} bytes",
                self.journal_bytes
            ));
        }
        faults
    }
}

fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(memory_kib: Vec<u64>) -> Outcome {
        Outcome {
            plan: Plan {
                warm_up: 0,
                cycles: memory_kib.len(),
                memory_percent: 5,
            },
            before: Footprint::default(),
            after: Footprint::default(),
            memory_kib,
            database_bytes: 0,
            journal_bytes: 0,
            audit_bytes: 0,
            took: Duration::ZERO,
        }
    }

    #[test]
    fn memory_may_move_but_not_grow_by_a_twentieth() {
        // Moves to and fro, with a peak that is none of the median's business.
        let steady = (0..90).map(|n| 1000 + 30 * (n % 3) + if n == 80 { 900 } else { 0 });
        assert!(outcome(steady.collect()).faults().is_empty());
        let leaks = (0..90).map(|n| 1000 + n);
        let outcome = outcome(leaks.collect());
        assert_eq!(outcome.memory_medians_kib(), (1015, 1075));
        assert_eq!(outcome.faults(), ["memory: 1015 KiB before, 1075 KiB now"]);
    }

    #[test]
    fn a_history_that_takes_too_much_is_told() {
        let mut outcome = outcome(vec![1000; 9]);
        outcome.database_bytes = 9 * DATABASE_BYTES_PER_LEASE;
        assert!(outcome.faults().is_empty());
        outcome.database_bytes += 1;
        assert_eq!(outcome.faults().len(), 1);
        outcome.journal_bytes = JOURNAL_BYTES + 1;
        assert_eq!(outcome.faults().len(), 2);
        outcome.audit_bytes = 9 * AUDIT_BYTES_PER_LEASE + 1;
        assert_eq!(outcome.faults().len(), 3);
    }
}
