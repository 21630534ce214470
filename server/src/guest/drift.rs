//! How far a guest's clock is off the host's. Pure.
//!
//! The guest reads its clock somewhere between the question and the answer, so that the difference is known no
//! better than the time between the two. Only what is certain of it is corrected: a correction never makes a
//! clock worse, however slow the guest is, and never goes past the mark; the next answer may come sooner.

use std::time::Duration;

/// What a clock may be off without anybody doing something about it.
const TOLERANCE: Duration = Duration::from_millis(20);

/// By how many nanoseconds a guest's clock is to be moved that showed `guest_ns`, when it was asked at
/// `asked_ns` and had answered after `took`. Moments are nanoseconds since 1970.
#[must_use]
pub fn correction(asked_ns: u64, took: Duration, guest_ns: u64) -> Option<i64> {
    let asked = i128::from(asked_ns);
    let answered = asked + i128::try_from(took.as_nanos()).unwrap_or(i128::MAX / 2);
    let guest = i128::from(guest_ns);
    let by = if guest < asked {
        asked - guest
    } else if guest > answered {
        answered - guest
    } else {
        return None;
    };
    let farthest = if by < 0 { i64::MIN } else { i64::MAX };
    (by.unsigned_abs() > TOLERANCE.as_nanos()).then(|| i64::try_from(by).unwrap_or(farthest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 1_800_000_000 * SECOND;

    fn by(took_ms: u64, guest_ns: u64) -> Option<i64> {
        correction(NOW, Duration::from_millis(took_ms), guest_ns)
    }

    #[test]
    fn only_what_is_certain_is_corrected() {
        assert_eq!(by(10, NOW), None);
        assert_eq!(
            by(10, NOW + 30_000_000),
            None,
            "off by no more than the tolerance"
        );
        assert_eq!(by(10, NOW + 40_000_000), Some(-30_000_000));
        assert_eq!(by(10, NOW - 30 * SECOND), Some(30_000_000_000));
        // An answer that took 2 s may have been made at any moment of them.
        assert_eq!(by(2000, NOW + SECOND), None);
        assert_eq!(by(2000, NOW + 5 * SECOND), Some(-3_000_000_000));
        // A guest may say anything.
        assert_eq!(by(10, u64::MAX), Some(i64::MIN));
        assert_eq!(by(10, 0), Some(1_800_000_000_000_000_000));
    }

    proptest! {
        #[test]
        fn no_correction_makes_a_clock_worse(
            off in -100_000_i64..100_000,
            took in 0_u64..10_000,
            read_percent in 0_u64..=100,
        ) {
            // All in milliseconds.
            let read = took * read_percent / 100;
            let guest = (NOW + read * 1_000_000).checked_add_signed(off * 1_000_000).unwrap();
            let by = by(took, guest).unwrap_or_default() / 1_000_000;
            prop_assert!((off + by).abs() <= off.abs(), "{off} ms became {} ms", off + by);
            prop_assert!(by == 0 || (off + by).unsigned_abs() <= took + 1, "left {} ms", off + by);
            prop_assert!(by != 0 || off.unsigned_abs() <= took + 21, "{off} ms was let be");
        }
    }
}
