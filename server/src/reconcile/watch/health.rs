//! Whether a guest is well, judged by its answers. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// What a guest suffers from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum Illness {
    /// The agent is silent.
    #[error("its agent did not answer {misses} times in a row")]
    AgentSilent {
        /// How often.
        misses: u32,
    },
    /// The daemon is silent.
    #[error("its Docker daemon has not answered for {seconds} s")]
    DockerSilent {
        /// For how long.
        seconds: u64,
    },
    /// The agent cannot be relied on.
    #[error("its agent broke the rules of the channel and is not listened to any more")]
    Foul,
}

/// What is known of one guest.
#[derive(Debug)]
pub(super) struct Health {
    misses_allowed: u32,
    docker_patience: Duration,
    misses: u32,
    docker_silent_since: Option<Instant>,
    told: bool,
}

impl Health {
    pub(super) fn new(misses_allowed: u32, docker_patience: Duration) -> Self {
        Self {
            misses_allowed,
            docker_patience,
            misses: 0,
            docker_silent_since: None,
            told: false,
        }
    }

    /// Whether it did not answer the last question.
    pub(super) fn is_missed(&self) -> bool {
        self.misses > 0
    }

    /// It answered; returns what that changes, `None` within for a guest that is well again.
    pub(super) fn answered(&mut self, docker: bool, now: Instant) -> Option<Option<Illness>> {
        self.misses = 0;
        if docker {
            self.docker_silent_since = None;
            return std::mem::take(&mut self.told).then_some(None);
        }
        let silent = now.duration_since(*self.docker_silent_since.get_or_insert(now));
        (silent >= self.docker_patience && !std::mem::replace(&mut self.told, true)).then_some(
            Some(Illness::DockerSilent {
                seconds: silent.as_secs(),
            }),
        )
    }

    /// It did not answer; returns the illness if that is news.
    pub(super) fn missed(&mut self) -> Option<Option<Illness>> {
        self.misses = self.misses.saturating_add(1);
        (self.misses >= self.misses_allowed && !std::mem::replace(&mut self.told, true)).then_some(
            Some(Illness::AgentSilent {
                misses: self.misses,
            }),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn an_agent_is_given_three_chances_and_told_of_once() {
        let now = Instant::now();
        let mut health = Health::new(3, MINUTE);
        assert_eq!([health.missed(), health.missed()], [None, None]);
        assert_eq!(health.answered(true, now), None);
        assert_eq!([health.missed(), health.missed()], [None, None]);
        let ill = Illness::AgentSilent { misses: 3 };
        assert_eq!(health.missed(), Some(Some(ill)));
        assert_eq!(health.missed(), None);
        assert_eq!(health.answered(true, now), Some(None));
        assert_eq!(health.answered(true, now), None);
    }

    #[test]
    fn a_daemon_is_given_a_minute_of_which_no_answer_of_its_may_be_part() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::new(3, MINUTE);
        assert_eq!(health.answered(false, at(0)), None);
        assert_eq!(health.answered(false, at(59)), None);
        assert_eq!(health.answered(true, at(60)), None);
        assert_eq!(health.answered(false, at(61)), None);
        assert_eq!(health.answered(false, at(120)), None);
        let ill = Illness::DockerSilent { seconds: 60 };
        assert_eq!(health.answered(false, at(121)), Some(Some(ill)));
        assert_eq!(health.answered(false, at(200)), None);
        assert_eq!(health.answered(true, at(201)), Some(None));
    }
}
