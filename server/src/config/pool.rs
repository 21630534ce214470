//! Machines that are kept ready before anybody asks.

use serde::Deserialize;

use super::error::Faults;
use crate::calendar::When;

/// Table `[[pool]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    /// Engine of the machines; without it, that of requests that name none.
    pub engine: Option<String>,
    /// Size of the machines; without it, that of requests that name none.
    pub size: Option<String>,
    /// How many are to be ready when the schedule does not say.
    #[serde(default)]
    pub ready: u32,
    /// Times at which that changes.
    #[serde(default)]
    pub schedule: Vec<ScheduleConfig>,
}

/// Table `[[pool.schedule]]`: from this time on, until that of another entry comes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// A cron expression, such as `0 7 * * mon-fri`.
    pub at: String,
    /// The time zone that it is meant in, such as `Europe/Berlin`.
    #[serde(default = "utc")]
    pub time_zone: String,
    /// How many machines are to be ready.
    pub ready: u32,
}

fn utc() -> String {
    "UTC".to_owned()
}

pub(super) fn validate(pools: &[PoolConfig], max_vms: u16, faults: &mut Faults) {
    let check_count = |key: String, ready: u32, faults: &mut Faults| {
        if ready > u32::from(max_vms) {
            let what = format!("is {ready}, more than `limits.max_vms` = {max_vms}");
            faults.add(key, what);
        }
    };
    for (place, pool) in (1..).zip(pools) {
        let key = format!("pool (number {place})");
        check_count(format!("{key}.ready"), pool.ready, faults);
        let twice = pools[..place - 1]
            .iter()
            .any(|other| (&other.engine, &other.size) == (&pool.engine, &pool.size));
        if twice {
            faults.add(&*key, "is for the same engine and size as one before it");
        }
        for (place, entry) in (1..).zip(&pool.schedule) {
            let key = format!("{key}.schedule (number {place})");
            check_count(format!("{key}.ready"), entry.ready, faults);
            if let Err(error) = When::parse(&entry.at, &entry.time_zone) {
                faults.add(key, format!("cannot be understood: {error}"));
            }
        }
    }
}
