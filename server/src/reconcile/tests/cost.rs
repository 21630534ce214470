//! What one lease costs, in counts that are the same on every machine and however busy it is. Seconds are the
//! benchmarks'; a step more than there was is found here.
//!
//! A busy machine can only add to the counts of some leases, when a step lost a race and was planned again. So many
//! leases are made, and the least that one of them cost is compared.

use std::time::Duration;

use remote_docker_api::EndReason;

use super::bench::Bench;
use crate::reconcile::Watching;

/// How often something is written from the request until nothing is left: the lease, its machine and that one's three
/// steps to being ready; that they belong together; the wish for the end, the end, that the machine is gone, and that
/// this was all. Each waits for a commit, and those that happen to wait together share one: there are never more
/// commits than this.
const WRITES: u64 = 10;

/// What is written beside that for those who follow a lease: two steps to tell, of which one that is told late is
/// left out.
const PROGRESS: u64 = 2;
const PROGRESS_NAME: &str = "Progress";

/// The statements of all that: one for each write and each progress, one more for the machine of a lease that gets it
/// and of one that ends, and one for each of six things that are told of the lease. Some of these may share one.
const STATEMENTS: u64 = 20;

/// Those of each transaction beside that: begin, a look whether anybody else wrote, and commit.
const OF_A_TRANSACTION: u64 = 3;

/// What all that writes to the database's journal, in pages: whole ones, also where less was changed.
const JOURNAL_PAGES: u64 = 51;

/// Frames from the server to the guest's agent: become a machine of your own; listen.
const FRAMES: u64 = 2;

/// Leases that are counted, one after the other.
const LEASES: usize = 20;

#[derive(Debug)]
struct Cost {
    writes: Vec<&'static str>,
    statements: u64,
    journal_pages: u64,
    frames: u64,
}

/// What is counted, how, and how much of it there may be.
type Count = (&'static str, fn(&Cost) -> u64, u64);

impl Cost {
    fn of_progress(&self) -> u64 {
        let named = |name: &&&str| **name == PROGRESS_NAME;
        self.writes.iter().filter(named).count() as u64
    }

    fn of_all_else(&self) -> u64 {
        self.writes.len() as u64 - self.of_progress()
    }
}

#[tokio::test]
async fn a_lease_costs_so_many_writes_bytes_and_frames_and_no_more() {
    let mut bench = Bench::new().await;
    // How often a guest is asked how it is depends on how long its lease lasts, and is no cost of having one.
    bench.settings.watching = Watching {
        period: Duration::from_secs(24 * 3600),
        ..Watching::default()
    };
    bench.start().await;
    // The first one builds the template.
    one(&mut bench).await;
    let mut costs = Vec::new();
    for _ in 0..LEASES {
        costs.push(one(&mut bench).await);
    }
    let counts: [Count; 5] = [
        ("writes", Cost::of_all_else, WRITES),
        ("writes of progress", Cost::of_progress, PROGRESS),
        ("statements", |cost| cost.statements, STATEMENTS),
        (
            "pages of the journal",
            |cost| cost.journal_pages,
            JOURNAL_PAGES,
        ),
        ("frames", |cost| cost.frames, FRAMES),
    ];
    let mut faults = Vec::new();
    for (name, of, most) in counts {
        let least = costs.iter().map(of).min().unwrap();
        // Nothing of all that is free, so who counts nothing has not counted.
        if least == 0 || least > most {
            faults.push(format!("{least} {name} and not {most}"));
        }
    }
    assert!(faults.is_empty(), "{faults:?}; {:?}", costs[0]);
}

/// Makes a lease and gives it back.
async fn one(bench: &mut Bench) -> Cost {
    let commits = bench.store.changes();
    let (statements, pages) = bench.store.written().await;
    let commits_before = *commits.borrow();
    bench.store.take_orders();
    let lease = bench.ask().await;
    let grant = bench.active(lease).await;
    let guest = bench.sim.record(grant.vm).unwrap();
    bench.release(lease).await;
    assert_eq!(bench.ended(lease).await, EndReason::Released);
    bench.clean().await;
    let frames = u64::from(guest.lock().unwrap().frames);
    let transactions = *commits.borrow() - commits_before;
    let writes = bench.store.take_orders();
    let written = bench.store.written().await;
    let statements = written.0 - statements;
    Cost {
        writes,
        // To ask for them was a transaction as well.
        statements: statements - OF_A_TRANSACTION * (transactions + 1),
        journal_pages: written.1 - pages,
        frames,
    }
}
