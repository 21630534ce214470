//! How QEMU processes ended: the only witness of a VM that is lost without a word, such as one whose
//! QEMU was killed for want of memory. Known for those that this process started; the others are
//! nobody's children here.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use crate::ids::VmId;

/// How many ends are remembered. They are asked for within seconds.
const REMEMBERED: usize = 256;

/// Written by the reaper and by whoever starts a VM or takes it away.
#[derive(Debug, Default)]
pub(super) struct Ends(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    processes: HashMap<VmId, Pid>,
    /// The latest last.
    ended: VecDeque<(Pid, String)>,
}

impl Ends {
    /// Notes which process is a VM's QEMU.
    pub(super) fn started(&self, vm: VmId, pid: Pid) {
        let mut known = self.known();
        // An earlier process of that number was another's.
        known.ended.retain(|(other, _)| *other != pid);
        known.processes.insert(vm, pid);
    }

    /// Notes how a process ended, whosever it was.
    pub(super) fn ended(&self, status: WaitStatus) {
        let (pid, how) = match status {
            WaitStatus::Exited(pid, code) => (pid, format!("ended with exit status {code}")),
            WaitStatus::Signaled(pid, signal, _) => (pid, format!("was killed by {signal}")),
            _ => return,
        };
        let mut known = self.known();
        if known.ended.len() == REMEMBERED {
            known.ended.pop_front();
        }
        known.ended.push_back((pid, how));
    }

    /// How a VM's QEMU ended, as what follows "QEMU"; `None` when it runs or nobody knows.
    pub(super) fn of(&self, vm: VmId) -> Option<String> {
        let known = self.known();
        let pid = known.processes.get(&vm)?;
        let end = known.ended.iter().rev().find(|(ended, _)| ended == pid);
        end.map(|(_, how)| how.clone())
    }

    /// Forgets a VM that is taken away.
    pub(super) fn forget(&self, vm: VmId) {
        self.known().processes.remove(&vm);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal;

    use super::*;

    #[test]
    fn the_end_of_each_is_its_own_and_told_until_it_is_taken_away() {
        let ends = Ends::default();
        let [one, two, other] = [1, 2, 3].map(VmId::from_bits);
        let [p, q] = [100, 200].map(Pid::from_raw);
        // Somebody else's process of that number, before.
        ends.ended(WaitStatus::Exited(q, 7));
        ends.started(one, p);
        ends.started(two, q);
        assert_eq!((ends.of(one), ends.of(two)), (None, None));
        ends.ended(WaitStatus::Signaled(p, Signal::SIGKILL, false));
        ends.ended(WaitStatus::Exited(q, 1));
        assert_eq!(ends.of(one).unwrap(), "was killed by SIGKILL");
        assert_eq!(ends.of(two).unwrap(), "ended with exit status 1");
        assert_eq!(ends.of(other), None);
        ends.forget(one);
        assert_eq!(ends.of(one), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let ends = Ends::default();
        let vm = VmId::from_bits(1);
        ends.started(vm, Pid::from_raw(1000));
        ends.ended(WaitStatus::Exited(Pid::from_raw(1000), 0));
        for number in 0..2 * REMEMBERED {
            let pid = Pid::from_raw(2000 + i32::try_from(number).unwrap());
            ends.ended(WaitStatus::Exited(pid, 0));
        }
        assert_eq!(ends.known().ended.len(), REMEMBERED);
        assert_eq!(ends.of(vm), None, "the oldest went first");
    }
}
