//! Tests of the core: the tables of transitions, single rules, and random interleavings of all that
//! can happen against a world in memory.

mod deadlines;
mod disk;
mod interleavings;
mod invariants;
mod quiet;
mod quota;
mod rules;
mod transitions;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use remote_docker_api::LeaseId;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use super::*;
use crate::ids::{Slot, VmId};

const T0: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);

fn at(seconds: i64) -> OffsetDateTime {
    T0 + Duration::seconds(seconds)
}

/// A kind of VM; its name says how many units of memory it takes.
fn kind(name: &str) -> PoolKey {
    PoolKey {
        engine: "26".to_owned(),
        size: name.to_owned(),
    }
}

/// The rules of a small host: eight units of memory, kinds that take one, two and four of them, and
/// one that takes more than there is.
fn policy() -> Policy {
    let sizes = [("one", 1), ("two", 2), ("four", 4), ("nine", 9)];
    Policy {
        budget: Budget {
            memory_mib: 8,
            slots: 5,
        },
        sizes: sizes.map(|(name, mib)| (kind(name), mib)).into(),
        quotas: BTreeMap::new(),
        targets: BTreeMap::new(),
        prebuild: BTreeSet::new(),
        start_deadline: Duration::seconds(10),
        activate_deadline: Duration::seconds(10),
        surplus_after: Duration::seconds(20),
        ready_max_age: Duration::hours(6),
        start_attempts: 3,
        warn_before: Duration::seconds(60),
        disk_reserve_bytes: 100,
    }
}
