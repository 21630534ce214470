//! How much others may make this server log.

use std::time::Duration;

use tokio::time::Instant;

/// So many lines may come at once.
const BURST: u32 = 20;

/// Afterwards one more each time this has passed: 20 in a minute.
const REFILL: Duration = Duration::from_secs(3);

/// What is left for one of them, such as a guest for as long as it is watched, whatever becomes of its
/// channel.
#[derive(Debug)]
pub(crate) struct LogBudget {
    left: u32,
    refilled_at: Instant,
    refused: u64,
}

impl LogBudget {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            refilled_at: now,
            refused: 0,
        }
    }

    /// Whether another line may be logged, and then how many were not since the one before.
    pub(crate) fn take(&mut self, now: Instant) -> Option<u64> {
        let earned = now.duration_since(self.refilled_at).as_nanos() / REFILL.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX).min(BURST);
        if earned > 0 {
            self.left = (self.left + earned).min(BURST);
            self.refilled_at = if self.left == BURST {
                now
            } else {
                self.refilled_at + REFILL * earned
            };
        }
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            Some(std::mem::take(&mut self.refused))
        } else {
            self.refused = self.refused.saturating_add(1);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_logged_then_twenty_lines_a_minute_and_the_rest_is_counted() {
        let start = Instant::now();
        let mut budget = LogBudget::new(start);
        let burst = (0..1000).filter(|_| budget.take(start).is_some()).count();
        assert_eq!(burst, 20);
        let step = Duration::from_millis(100);
        let minute: Vec<u64> = (1..=600)
            .filter_map(|tick| budget.take(start + step * tick))
            .collect();
        assert_eq!(minute.len(), 20);
        assert_eq!(minute[0], 980 + 29);
        assert!(minute[1..].iter().all(|refused| *refused == 29));
        let rested = start + Duration::from_secs(86_400);
        let burst = (0..1000).filter(|_| budget.take(rested).is_some()).count();
        assert_eq!(burst, 20);
    }
}
