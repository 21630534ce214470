//! Waiting: on a level and not on an edge, far beyond what it takes, with the last thing seen in the
//! message.

use std::fmt::Debug;
use std::time::{Duration, Instant};

const PACE: Duration = Duration::from_millis(50);

/// Asks until the answer is `Ok`.
///
/// # Panics
/// When it is not within `limit`, with the last answer.
pub fn eventually<T, E: Debug>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Result<T, E>,
) -> T {
    let started = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(last) => assert!(
                started.elapsed() < limit,
                "{what}: not within {limit:?}; last seen: {last:?}"
            ),
        }
        std::thread::sleep(PACE);
    }
}

/// Asks until the answer satisfies `good`.
///
/// # Panics
/// When it does not within `limit`, with the last answer.
pub fn until<T: Debug>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> T,
    good: impl Fn(&T) -> bool,
) -> T {
    eventually(what, limit, || {
        let seen = ask();
        if good(&seen) { Ok(seen) } else { Err(seen) }
    })
}
