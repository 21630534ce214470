//! The rows as the loop knows them: read once, then kept up to date by what the store says of each commit.
//! A round costs what has changed and what needs something, however many leases there are.

use std::collections::{BTreeSet, HashMap};

use remote_docker_api::LeaseId;

use crate::ids::VmId;
use crate::lease::{LeasePhase, LeaseRow, Roster, VmRow};
use crate::numbers::Numbers;
use crate::store::{Changes, Follower, Rows, Store, StoreError};

pub(super) struct Mirror {
    follower: Follower,
    pub(super) roster: Roster,
    ports: HashMap<LeaseId, u16>,
    taken: Numbers,
}

/// What a round finds changed.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Anything may have.
    pub(super) all: bool,
    /// VMs that did, also then.
    pub(super) vms: BTreeSet<VmId>,
    /// Leases that did, but for then.
    pub(super) leases: BTreeSet<LeaseId>,
}

impl Mirror {
    /// Knows nothing yet.
    pub(super) fn new(store: &Store) -> Self {
        Self {
            follower: store.follow(),
            roster: Roster::default(),
            ports: HashMap::new(),
            taken: Numbers::default(),
        }
    }

    /// Takes in what was written since the last time.
    ///
    /// # Errors
    /// When all has to be read, at first or because somebody else wrote too, and that fails.
    pub(super) async fn catch_up(&mut self, store: &Store) -> Result<News, StoreError> {
        Ok(match self.follower.catch_up(store).await? {
            Changes::All(Rows { vms, leases, ports }) => {
                let roster = Roster::new(vms, leases);
                let before = std::mem::replace(&mut self.roster, roster);
                self.taken = ports.iter().map(|(_, port)| *port).collect();
                self.ports = ports.into_iter().collect();
                News {
                    all: true,
                    vms: before.changed_vms(&self.roster),
                    leases: BTreeSet::new(),
                }
            }
            Changes::These { vms, leases } => {
                let mut news = News::default();
                for vm in vms {
                    news.vms.insert(vm.id);
                    self.roster.put_vm(vm);
                }
                for lease in leases {
                    news.leases.insert(lease.id);
                    self.keep_port(&lease);
                    self.roster.put_lease(lease);
                }
                news
            }
        })
    }

    /// Ports that no lease may be given now. One whose lease is ending is among them: when its machine
    /// cannot be destroyed, it keeps its port although nobody listens there.
    pub(super) fn taken_ports(&self) -> &Numbers {
        &self.taken
    }

    pub(super) fn vm(&self, id: VmId) -> Option<&VmRow> {
        self.roster.vm(id)
    }

    fn keep_port(&mut self, lease: &LeaseRow) {
        match &lease.phase {
            LeasePhase::Waiting | LeasePhase::Ending { .. } => {}
            LeasePhase::Active(grant) => {
                self.ports.insert(lease.id, grant.port);
                self.taken.insert(grant.port);
            }
            LeasePhase::Ended { .. } => {
                if let Some(port) = self.ports.remove(&lease.id) {
                    self.taken.remove(port);
                }
            }
        }
    }
}
