//! Counts the calls that tell wires what machines may reach, for those who judge who was served before whom.

use super::SimHypervisor;

/// How it stands with telling wires what machines may reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Admits {
    /// Calls that were begun, ever.
    pub begun: usize,
    /// Calls that have not returned yet.
    pub under_way: usize,
    /// Calls that went wrong, ever.
    pub went_wrong: usize,
}

/// A call of `admit`, until it returns or nobody waits for it any more.
pub(super) struct UnderWay<'a>(&'a SimHypervisor);

impl<'a> UnderWay<'a> {
    pub(super) fn begin(sim: &'a SimHypervisor) -> Self {
        {
            let mut world = sim.world();
            world.admits.begun += 1;
            world.admits.under_way += 1;
        }
        Self(sim)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.world().admits.under_way -= 1;
    }
}
