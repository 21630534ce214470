//! How many machines are to be ready at which time. Pure: the time comes in as an argument.

use std::collections::BTreeMap;
use std::str::FromStr;

use croner::Cron;
use jiff::Zoned;
use jiff::tz::TimeZone;
use time::OffsetDateTime;

use crate::config::{PoolConfig, ScheduleConfig};
use crate::lease::PoolKey;

/// A time of the calendar cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// The cron expression.
    #[error("`{0}` is no cron expression such as `0 7 * * mon-fri`: {1}")]
    Cron(String, String),
    /// The time zone.
    #[error("`{0}` is no time zone such as `Europe/Berlin` or `UTC`")]
    TimeZone(String),
    /// It is a date that does not exist.
    #[error("`{0}` never comes")]
    Never(String),
}

/// The targets of all pools over time.
#[derive(Debug, Clone, Default)]
pub struct Calendar(BTreeMap<PoolKey, Pool>);

#[derive(Debug, Clone)]
struct Pool {
    otherwise: u32,
    changes: Vec<Change>,
}

#[derive(Debug, Clone)]
struct Change {
    when: When,
    ready: u32,
}

/// A time that comes again and again.
#[derive(Debug, Clone)]
pub struct When {
    cron: Cron,
    zone: TimeZone,
}

impl When {
    /// Understands a cron expression (five fields: minute, hour, day, month, day of the week) in the
    /// time zone of this name.
    ///
    /// # Errors
    /// When either cannot be understood, or the time never comes.
    pub fn parse(at: &str, time_zone: &str) -> Result<Self, CalendarError> {
        let cron = Cron::from_str(at)
            .map_err(|error| CalendarError::Cron(at.to_owned(), error.to_string()))?;
        let zone =
            TimeZone::get(time_zone).map_err(|_| CalendarError::TimeZone(time_zone.to_owned()))?;
        let when = Self { cron, zone };
        match when.next(OffsetDateTime::UNIX_EPOCH) {
            Some(_) => Ok(when),
            None => Err(CalendarError::Never(at.to_owned())),
        }
    }

    /// The first such time after `now`.
    fn next(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let found = self.cron.find_next_occurrence(&self.zoned(now)?, false);
        found.ok().and_then(moment)
    }

    /// The last such time that is not after `now`.
    fn last(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let found = self.cron.find_previous_occurrence(&self.zoned(now)?, true);
        found.ok().and_then(moment)
    }

    fn zoned(&self, moment: OffsetDateTime) -> Option<Zoned> {
        // Whole seconds are all that a cron expression knows.
        let timestamp = jiff::Timestamp::from_second(moment.unix_timestamp()).ok()?;
        Some(timestamp.to_zoned(self.zone.clone()))
    }
}

fn moment(zoned: Zoned) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(zoned.timestamp().as_second()).ok()
}

impl Calendar {
    /// The calendar of these pools.
    ///
    /// # Errors
    /// When a time cannot be understood, which the check of the configuration has excluded.
    pub fn new(
        pools: impl IntoIterator<Item = (PoolKey, PoolConfig)>,
    ) -> Result<Self, CalendarError> {
        let change = |entry: &ScheduleConfig| {
            Ok(Change {
                when: When::parse(&entry.at, &entry.time_zone)?,
                ready: entry.ready,
            })
        };
        let pool = |config: PoolConfig| {
            let changes: Result<_, _> = config.schedule.iter().map(change).collect();
            Ok(Pool {
                otherwise: config.ready,
                changes: changes?,
            })
        };
        let pools = pools
            .into_iter()
            .map(|(key, config)| Ok((key, pool(config)?)))
            .collect::<Result<_, _>>()?;
        Ok(Self(pools))
    }

    /// How many machines are to be ready at `now`: what the entry of the schedule says whose time
    /// came last, the later one in the file if two came together; without a schedule, what the pool
    /// says.
    #[must_use]
    pub fn targets(&self, now: OffsetDateTime) -> BTreeMap<PoolKey, u32> {
        let target = |pool: &Pool| {
            let came = pool
                .changes
                .iter()
                .filter_map(|change| Some((change.when.last(now)?, change.ready)));
            came.max_by_key(|(when, _)| *when)
                .map_or(pool.otherwise, |(_, ready)| ready)
        };
        self.0
            .iter()
            .map(|(key, pool)| (key.clone(), target(pool)))
            .collect()
    }

    /// When the targets may change next.
    #[must_use]
    pub fn next_change(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let changes = self.0.values().flat_map(|pool| &pool.changes);
        changes.filter_map(|change| change.when.next(now)).min()
    }

    /// The highest target of each pool, at whatever time.
    #[must_use]
    pub fn peaks(&self) -> BTreeMap<PoolKey, u32> {
        let peak = |pool: &Pool| {
            let changes = pool.changes.iter().map(|change| change.ready);
            changes.chain([pool.otherwise]).max().unwrap_or_default()
        };
        self.0
            .iter()
            .map(|(key, pool)| (key.clone(), peak(pool)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn key() -> PoolKey {
        PoolKey {
            engine: "26".to_owned(),
            size: "small".to_owned(),
        }
    }

    fn calendar(schedule: &[(&str, &str, u32)]) -> Calendar {
        let entry = |&(at, time_zone, ready): &(&str, &str, u32)| ScheduleConfig {
            at: at.to_owned(),
            time_zone: time_zone.to_owned(),
            ready,
        };
        let config = PoolConfig {
            engine: None,
            size: None,
            ready: 1,
            schedule: schedule.iter().map(entry).collect(),
        };
        Calendar::new([(key(), config)]).unwrap()
    }

    #[test]
    fn without_a_schedule_the_target_never_changes() {
        let calendar = calendar(&[]);
        let now = datetime!(2026-03-02 12:00 UTC);
        assert_eq!(calendar.targets(now)[&key()], 1);
        assert_eq!(calendar.next_change(now), None);
    }

    #[test]
    fn the_entry_whose_time_came_last_counts_in_its_time_zone() {
        let berlin = "Europe/Berlin";
        let calendar = calendar(&[
            ("0 7 * * mon-fri", berlin, 4),
            ("0 19 * * mon-fri", berlin, 0),
        ]);
        // In winter Berlin is an hour ahead of UTC, in summer two. 2 March 2026 is a Monday.
        for (now, target, next) in [
            (
                datetime!(2026-03-02 05:59:59 UTC),
                0,
                datetime!(2026-03-02 06:00 UTC),
            ),
            (
                datetime!(2026-03-02 06:00 UTC),
                4,
                datetime!(2026-03-02 18:00 UTC),
            ),
            (
                datetime!(2026-03-02 18:00 UTC),
                0,
                datetime!(2026-03-03 06:00 UTC),
            ),
            (
                datetime!(2026-03-07 12:00 UTC),
                0,
                datetime!(2026-03-09 06:00 UTC),
            ),
            (
                datetime!(2026-07-06 05:00 UTC),
                4,
                datetime!(2026-07-06 17:00 UTC),
            ),
        ] {
            assert_eq!(calendar.targets(now)[&key()], target, "{now}");
            assert_eq!(calendar.next_change(now), Some(next), "{now}");
        }
        assert_eq!(calendar.peaks()[&key()], 4);
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        for (at, zone, expected) in [
            ("whenever", "UTC", "no cron expression"),
            ("61 * * * *", "UTC", "no cron expression"),
            ("* * * *", "UTC", "no cron expression"),
            ("0 0 30 2 *", "UTC", "never comes"),
            ("0 0 * * *", "Middle/Earth", "no time zone"),
        ] {
            let error = When::parse(at, zone).unwrap_err().to_string();
            assert!(error.contains(expected), "{at}: {error}");
        }
    }
}
