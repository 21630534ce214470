//! A hypervisor that only pretends: for races, faults and scale, never as proof that something
//! works. It implements the real trait, talks the real protocol over its channels, makes real keys,
//! and carries a script of faults.

mod agent;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinHandle;

use super::{
    Accelerator, Channel, HostFacts, Hypervisor, HypervisorError, Observed, Source, StartReport,
    Step, TemplateFiles, VmSpec,
};
use crate::clock::Clock;
use crate::ids::VmId;
use agent::SimAgent;

/// What goes wrong, once, at the next call of a verb.
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
    /// The call never returns.
    Hangs,
}

/// Names a verb in the script of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the verb of its name")]
pub enum Verb {
    Start,
    Snapshot,
    Channel,
    Destroy,
    List,
    /// The guest's answer to an activation: it fails, lies about its identity, is slow or hangs.
    Activate,
}

#[derive(Debug)]
struct SimVm {
    running: bool,
    cloned: bool,
    agent: Arc<SimAgent>,
    connection: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct World {
    vms: BTreeMap<VmId, SimVm>,
    faults: HashMap<Verb, VecDeque<SimFault>>,
    starts: Vec<(VmId, &'static str)>,
}

/// The simulated host. It outlives the servers that use it, as a host does: clones of this handle
/// see one world.
#[derive(Clone)]
pub struct SimHypervisor {
    world: Arc<Mutex<World>>,
    clock: Arc<dyn Clock>,
    host: HostFacts,
}

impl SimHypervisor {
    /// An empty host whose guests read `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let host = HostFacts {
            accelerator: Accelerator::Tcg,
            qemu_version: "10.0.0".into(),
            libvirt_version: "11.0.0".into(),
            cpu_model: "simulated".into(),
        };
        Self {
            world: Arc::default(),
            clock,
            host,
        }
    }

    /// Lets the next call of `verb` that has no fault before it in line go wrong.
    pub fn inject(&self, verb: Verb, fault: SimFault) {
        self.world()
            .faults
            .entry(verb)
            .or_default()
            .push_back(fault);
    }

    /// Whether a fault of `verb` is still in line.
    #[must_use]
    pub fn has_fault(&self, verb: Verb) -> bool {
        self.world()
            .faults
            .get(&verb)
            .is_some_and(|faults| !faults.is_empty())
    }

    /// Lets a VM crash: its domain is there, but it does not run.
    pub fn crash(&self, vm: VmId) {
        if let Some(vm) = self.world().vms.get_mut(&vm) {
            vm.running = false;
            if let Some(connection) = vm.connection.take() {
                connection.abort();
            }
        }
    }

    /// Takes a VM away as if somebody else had destroyed it.
    pub fn vanish(&self, vm: VmId) {
        self.crash(vm);
        self.world().vms.remove(&vm);
    }

    /// All VMs of which anything is on the host.
    #[must_use]
    pub fn vms(&self) -> Vec<VmId> {
        self.world().vms.keys().copied().collect()
    }

    /// Every start that was tried, with `cold`, `template` or `clone`.
    #[must_use]
    pub fn starts(&self) -> Vec<(VmId, &'static str)> {
        self.world().starts.clone()
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_fault(&self, verb: Verb) -> Option<SimFault> {
        self.world().faults.get_mut(&verb)?.pop_front()
    }

    /// Runs `act` as the fault in line for `verb` has it; `lie` is what a liar answers.
    async fn perform<T>(
        &self,
        verb: Verb,
        lie: impl FnOnce() -> T,
        act: impl FnOnce() -> Result<T, HypervisorError>,
    ) -> Result<T, HypervisorError> {
        let failed = || HypervisorError::Monitor {
            doing: "do what the script of faults forbids",
            detail: format!("{verb:?} was told to fail"),
        };
        match self.next_fault(verb) {
            None => act(),
            Some(SimFault::Fails) => Err(failed()),
            Some(SimFault::FailsAfterwards) => act().and(Err(failed())),
            Some(SimFault::Lies) => Ok(lie()),
            Some(SimFault::Slow(duration)) => {
                tokio::time::sleep(duration).await;
                act()
            }
            Some(SimFault::Hangs) => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Hypervisor for SimHypervisor {
    fn host(&self) -> &HostFacts {
        &self.host
    }

    async fn start(&self, vm: &VmSpec) -> Result<StartReport, HypervisorError> {
        let kind = match &vm.source {
            Source::Cold => "cold",
            Source::Template(_) => "template",
            Source::Clone(_) => "clone",
        };
        self.world().starts.push((vm.id, kind));
        let report = || StartReport {
            steps: vec![Step {
                name: "simulate",
                duration: Duration::from_millis(1),
            }],
        };
        self.perform(Verb::Start, report, || {
            if let Source::Template(files) = &vm.source {
                // What a template is on disk, in miniature, so that finding it again is real.
                for path in [&files.memory, &files.device_state, &files.disk] {
                    std::fs::write(path, b"simulated").map_err(|source| HypervisorError::File {
                        doing: "create",
                        path: path.clone(),
                        source,
                    })?;
                }
            }
            let cloned = kind == "clone";
            let agent = Arc::new(SimAgent::new(cloned, self.clock.clone()));
            let fresh = SimVm {
                running: true,
                cloned,
                agent,
                connection: None,
            };
            self.world().vms.insert(vm.id, fresh);
            Ok(report())
        })
        .await
    }

    async fn snapshot(&self, vm: VmId, _: &TemplateFiles) -> Result<(), HypervisorError> {
        self.perform(
            Verb::Snapshot,
            || (),
            || match self.world().vms.get_mut(&vm) {
                Some(vm) if vm.running && !vm.cloned => {
                    vm.running = false;
                    Ok(())
                }
                _ => Err(HypervisorError::NotRunning { vm }),
            },
        )
        .await
    }

    async fn channel(&self, vm: VmId) -> Result<Box<dyn Channel>, HypervisorError> {
        let activation_fault = self.next_fault(Verb::Activate);
        let dead_end = || -> Box<dyn Channel> { Box::new(tokio::io::duplex(1).0) };
        self.perform(Verb::Channel, dead_end, || {
            let mut world = self.world();
            let found = world.vms.get_mut(&vm).filter(|vm| vm.running);
            let found = found.ok_or(HypervisorError::NotRunning { vm })?;
            let (server, guest) = tokio::io::duplex(64 * 1024);
            let agent = found.agent.clone();
            let connection = tokio::spawn(agent.serve(guest, activation_fault));
            if let Some(former) = found.connection.replace(connection) {
                former.abort();
            }
            Ok(Box::new(server) as Box<dyn Channel>)
        })
        .await
    }

    async fn destroy(&self, vm: VmId) -> Result<(), HypervisorError> {
        self.perform(
            Verb::Destroy,
            || (),
            || {
                self.vanish(vm);
                Ok(())
            },
        )
        .await
    }

    async fn list(&self) -> Result<Observed, HypervisorError> {
        self.perform(Verb::List, Observed::default, || {
            let mut observed = Observed::default();
            for (id, vm) in &self.world().vms {
                let set = if vm.running {
                    &mut observed.running
                } else {
                    &mut observed.remnants
                };
                set.insert(*id);
            }
            Ok(observed)
        })
        .await
    }
}
