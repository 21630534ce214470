//! The script of faults: what goes wrong, for whom, and for how long.

use std::time::Duration;

use crate::ids::VmId;

/// What goes wrong at a call of a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimFault {
    /// The call fails and did nothing.
    Fails,
    /// The call fails after it did everything.
    FailsAfterwards,
    /// The call says that all is well and did nothing.
    Lies,
    /// The call takes this long.
    Slow(Duration),
    /// The call does not return, but for [`let_go`](super::SimHypervisor::let_go), after which it
    /// fails and did nothing.
    Hangs,
    /// The call does everything at once, and returns only after
    /// [`let_go`](super::SimHypervisor::let_go): what it answers was so back then.
    ReturnsLate,
    /// Whoever calls panics, as by a fault of ours.
    Panics,
}

/// Names a verb in the script of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the verb of its name")]
pub enum Verb {
    Start,
    Snapshot,
    Admit,
    Channel,
    Destroy,
    /// Is about no VM in particular.
    List,
    Shows,
    Resume,
    /// Is about no VM in particular.
    FreeDisk,
    /// The guest's answer to an activation: it fails, lies about its identity, is slow or hangs.
    Activate,
}

/// How the guests of a VM behave on their channel from now on, beside what they are asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Manners {
    /// As the protocol has it.
    #[default]
    Good,
    /// It takes everything and answers nothing.
    Silent,
    /// It sends events as fast as they are taken.
    Floods,
    /// It sends what is no frame, and one that is longer than frames may be.
    Rubbish,
    /// It says everything twice.
    Repeats,
    /// Whatever it is asked, it says that it is well and serves its holder.
    Boasts,
}

/// One line of the script.
#[derive(Debug)]
struct Line {
    verb: Verb,
    /// Whom it is for; everybody without it.
    vm: Option<VmId>,
    fault: SimFault,
    /// Holds for every call until it is lifted, not for one.
    lasting: bool,
}

impl Line {
    fn is_for(&self, verb: Verb, vm: Option<VmId>) -> bool {
        self.verb == verb && (self.vm.is_none() || self.vm == vm)
    }
}

/// All lines, in the order in which they were written.
#[derive(Debug, Default)]
pub(super) struct Script(Vec<Line>);

impl Script {
    pub(super) fn add(&mut self, verb: Verb, vm: Option<VmId>, fault: SimFault, lasting: bool) {
        self.0.push(Line {
            verb,
            vm,
            fault,
            lasting,
        });
    }

    /// What goes wrong at this call; the first line that is for it, and used up unless it lasts.
    pub(super) fn next(&mut self, verb: Verb, vm: Option<VmId>) -> Option<SimFault> {
        let index = self.0.iter().position(|line| line.is_for(verb, vm))?;
        let fault = self.0[index].fault;
        if !self.0[index].lasting {
            self.0.remove(index);
        }
        Some(fault)
    }

    /// Strikes every line of a verb that names this VM, or nobody when `vm` is `None`.
    pub(super) fn lift(&mut self, verb: Verb, vm: Option<VmId>) {
        self.0.retain(|line| line.verb != verb || line.vm != vm);
    }

    pub(super) fn mentions(&self, verb: Verb) -> bool {
        self.0.iter().any(|line| line.verb == verb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_used_in_order_and_by_those_they_are_for() {
        let [one, two] = [1, 2].map(|id| Some(VmId::from_bits(id)));
        let mut script = Script::default();
        script.add(Verb::Start, one, SimFault::Hangs, false);
        script.add(Verb::Start, None, SimFault::Fails, false);
        script.add(Verb::Destroy, two, SimFault::Lies, true);
        assert_eq!(script.next(Verb::List, None), None);
        assert_eq!(script.next(Verb::Start, two), Some(SimFault::Fails));
        assert_eq!(script.next(Verb::Start, two), None);
        assert_eq!(script.next(Verb::Start, one), Some(SimFault::Hangs));
        assert_eq!(script.next(Verb::Start, one), None);
        for _ in 0..3 {
            assert_eq!(script.next(Verb::Destroy, one), None);
            assert_eq!(script.next(Verb::Destroy, two), Some(SimFault::Lies));
        }
        script.lift(Verb::Destroy, None);
        assert!(script.mentions(Verb::Destroy));
        script.lift(Verb::Destroy, two);
        assert!(!script.mentions(Verb::Destroy));
    }
}
