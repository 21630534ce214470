//! What can happen, and how often.

use super::dice::Dice;
use crate::hypervisor::sim::{Manners, SimFault, Verb};

/// One thing that somebody does or that happens. Whom it concerns is drawn when it is taken, among
/// those that are there then.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Ask(Ask),
    /// The same request once more, with its idempotency key.
    AskAgain,
    /// Another request with a key that was used.
    AskOtherwise,
    Release,
    /// A client that waits hangs up.
    HangUp,
    Extend {
        seconds: u32,
    },
    Heartbeat,
    /// Somebody looks at a lease, whatever became of it.
    LookUp,
    /// The guest of some machine begins to work, or stops.
    Work(bool),
    /// A byte of some guest's API moves.
    Use,
    /// Some guest's Docker daemon stops answering, or answers again.
    Daemon(bool),
    Behave(Manners),
    /// The channel to some guest closes.
    CloseChannel,
    /// Some machine stops, and something of it is left or nothing.
    Kill {
        left: bool,
    },
    /// Something of ours without a row turns up.
    LeaveBehind {
        running: bool,
    },
    /// A verb goes wrong, once or until it is lifted.
    Fault {
        verb: Verb,
        fault: SimFault,
        lasts: bool,
    },
    Lift,
    /// What hangs fails.
    LetGo,
    /// Some guest writes to the host's disk.
    Write {
        bytes: u64,
    },
    /// Somebody else takes the disk's space, or gives it back.
    Disk {
        free: u64,
    },
    Pass {
        seconds: u32,
    },
    /// Nobody looks for longer than rows are kept.
    Night,
    /// The server dies and starts again, after so much time; `reopen` takes its database away too.
    Crash {
        away_s: u32,
        reopen: bool,
    },
    /// The server is told to stop, and starts again.
    Stop {
        away_s: u32,
    },
    /// Everything that is wrong is made well, and the server has to come to rest.
    Rest,
}

/// A lease that somebody asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub(super) project: &'static str,
    pub(super) size: &'static str,
    pub(super) ttl_s: u32,
    pub(super) keepalive_s: Option<u32>,
    pub(super) idle_s: Option<u32>,
    pub(super) wait_s: u32,
    pub(super) attended: bool,
    /// Whether it has an idempotency key.
    pub(super) repeatable: bool,
}

impl Step {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        match dice.below(1000) {
            0..85 => Self::Ask(Ask::draw(dice)),
            85..120 => Self::AskAgain,
            120..130 => Self::AskOtherwise,
            130..155 => Self::Release,
            155..165 => Self::HangUp,
            165..215 => Self::Extend {
                seconds: dice.between(1, 600),
            },
            215..345 => Self::Heartbeat,
            345..430 => Self::LookUp,
            430..485 => Self::Work(dice.percent(30)),
            485..515 => Self::Use,
            515..540 => Self::Daemon(dice.percent(70)),
            540..565 => Self::Behave(Self::manners(dice)),
            565..580 => Self::CloseChannel,
            580..595 => Self::Kill {
                left: dice.percent(50),
            },
            595..600 => Self::LeaveBehind {
                running: dice.percent(50),
            },
            600..665 => Self::fault(dice),
            665..690 => Self::Lift,
            690..705 => Self::LetGo,
            705..725 => Self::Write {
                bytes: dice.below(400),
            },
            725..735 => Self::Disk {
                free: dice.choose(&[0, 99, 100, 1000]),
            },
            735..970 => Self::Pass {
                seconds: 1 + dice.of_any_size(64),
            },
            970..971 => match dice.below(10) {
                0 => Self::Night,
                _ => Self::Rest,
            },
            971..980 => Self::Crash {
                away_s: dice.of_any_size(300),
                reopen: dice.percent(50),
            },
            980..984 => Self::Stop {
                away_s: dice.of_any_size(300),
            },
            984.. => Self::Rest,
        }
    }

    fn manners(dice: &mut Dice) -> Manners {
        match dice.below(20) {
            0 => Manners::Floods,
            1..3 => Manners::Rubbish,
            3..10 => Manners::Silent,
            _ => Manners::Good,
        }
    }

    fn fault(dice: &mut Dice) -> Self {
        let verb = dice.choose(&[
            Verb::Start,
            Verb::Start,
            Verb::Activate,
            Verb::Activate,
            Verb::Admit,
            Verb::Destroy,
            Verb::Destroy,
            Verb::Snapshot,
            Verb::Channel,
            Verb::Resume,
            Verb::List,
            Verb::Shows,
            Verb::FreeDisk,
        ]);
        let slow = std::time::Duration::from_secs(dice.between(1, 90).into());
        let fault = dice.choose(&[
            SimFault::Fails,
            SimFault::FailsAfterwards,
            SimFault::Lies,
            SimFault::Slow(slow),
            SimFault::Hangs,
        ]);
        let fault = match (verb, fault) {
            // Whoever is told that nothing is there can only believe it.
            (Verb::List, SimFault::Lies) => SimFault::ReturnsLate,
            (Verb::Shows, SimFault::Lies) => SimFault::Fails,
            _ => fault,
        };
        Self::Fault {
            verb,
            fault,
            lasts: dice.percent(10),
        }
    }
}

impl Ask {
    fn draw(dice: &mut Dice) -> Self {
        let mut maybe = |first, last| dice.percent(40).then(|| dice.between(first, last));
        let (keepalive_s, idle_s) = (maybe(20, 200), maybe(20, 150));
        Self {
            project: dice.choose(&["a", "a", "b", "c"]),
            size: dice.choose(&["small", "small", "small", "large"]),
            ttl_s: dice.between(20, 1500),
            keepalive_s,
            idle_s,
            wait_s: dice.between(5, 240),
            attended: dice.percent(60),
            repeatable: dice.percent(40),
        }
    }
}
