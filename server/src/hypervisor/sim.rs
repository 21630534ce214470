//! A hypervisor that only pretends: for races, faults and scale, never as proof that something
//! works. It implements the real trait, talks the real protocol over its channels, makes real keys,
//! and carries a script of faults: [`SimHypervisor::inject`] for one call, [`SimHypervisor::always`]
//! for all until [`SimHypervisor::lift`], each for everybody or for one VM; guests without manners
//! ([`SimHypervisor::behave`]); a disk that guests fill ([`SimHypervisor::take_disk`]).

mod admits;
mod agent;
mod disk;
mod script;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use remote_docker_api::Egress;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{
    Accelerator, Channel, HostFacts, Hypervisor, HypervisorError, Observed, Source, StartReport,
    Step, TemplateFiles, VmSpec, tail,
};
use crate::clock::Clock;
use crate::ids::VmId;
use admits::UnderWay;
use agent::SimAgent;
use disk::SimDisk;
use script::Script;

pub use admits::Admits;
pub use agent::SimGuest;
pub use script::{Manners, SimFault, Verb};

/// What every guest says first.
const BANNER: &str = "a simulated machine starts\n";

#[derive(Debug)]
struct SimVm {
    running: bool,
    cloned: bool,
    said: String,
    agent: Arc<SimAgent>,
    connection: Option<JoinHandle<()>>,
    egress: Egress,
}

impl SimVm {
    /// One that runs.
    fn new(cloned: bool, clock: Arc<dyn Clock>) -> Self {
        Self {
            running: true,
            cloned,
            said: BANNER.to_owned(),
            agent: Arc::new(SimAgent::new(cloned, clock)),
            connection: None,
            egress: Egress::None,
        }
    }
}

#[derive(Debug, Default)]
struct World {
    vms: BTreeMap<VmId, SimVm>,
    script: Script,
    disk: SimDisk,
    starts: Vec<(VmId, &'static str)>,
    /// How guests behave that are started.
    manners: Manners,
    admits: Admits,
}

/// The simulated host. It outlives the servers that use it, as a host does: clones of this handle
/// see one world.
#[derive(Clone)]
pub struct SimHypervisor {
    world: Arc<Mutex<World>>,
    clock: Arc<dyn Clock>,
    host: HostFacts,
    /// Ends the calls that hang.
    let_go: watch::Sender<()>,
}

impl SimHypervisor {
    /// An empty host whose guests read `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let host = HostFacts {
            nested: false,
            accelerator: Accelerator::Tcg,
            qemu_version: "10.0.0".into(),
            libvirt_version: "11.0.0".into(),
            cpu_model: "simulated".into(),
            layout: "simulated".into(),
        };
        Self {
            world: Arc::default(),
            clock,
            host,
            let_go: watch::Sender::default(),
        }
    }

    /// Lets the next call of `verb` that has no fault before it in line go wrong.
    pub fn inject(&self, verb: Verb, fault: SimFault) {
        self.world().script.add(verb, None, fault, false);
    }

    /// Lets the next call of `verb` for this VM go wrong.
    pub fn inject_for(&self, vm: VmId, verb: Verb, fault: SimFault) {
        self.world().script.add(verb, Some(vm), fault, false);
    }

    /// Lets every call of `verb` go wrong, or every one for this VM, until it is lifted.
    pub fn always(&self, vm: Option<VmId>, verb: Verb, fault: SimFault) {
        self.world().script.add(verb, vm, fault, true);
    }

    /// Takes back what was said of `verb` for all (`None`) or for this VM. Calls that hang go on
    /// hanging.
    pub fn lift(&self, vm: Option<VmId>, verb: Verb) {
        self.world().script.lift(verb, vm);
    }

    /// Takes back everything that was to go wrong. Calls that hang go on hanging.
    pub fn lift_all(&self) {
        self.world().script = Script::default();
    }

    /// Lets every call fail that hangs now, as one does whose time is over, and return that is late.
    pub fn let_go(&self) {
        self.let_go.send_replace(());
    }

    /// How many calls hang now.
    #[must_use]
    pub fn hanging(&self) -> usize {
        self.let_go.receiver_count()
    }

    /// How it stands with telling wires what machines may reach.
    #[must_use]
    pub fn admits(&self) -> Admits {
        self.world().admits
    }

    /// Whether a fault of `verb` is still in line.
    #[must_use]
    pub fn has_fault(&self, verb: Verb) -> bool {
        self.world().script.mentions(verb)
    }

    /// Lets the guest of this VM behave so on its channel, the open one included.
    pub fn behave(&self, vm: VmId, manners: Manners) {
        if let Some(vm) = self.world().vms.get(&vm) {
            vm.agent.behave(manners);
        }
    }

    /// Lets the guests behave so that are started from now on.
    pub fn raise(&self, manners: Manners) {
        self.world().manners = manners;
    }

    /// Lets the guest say this on its console.
    pub fn say(&self, vm: VmId, text: &str) {
        if let Some(vm) = self.world().vms.get_mut(&vm) {
            vm.said.push_str(text);
        }
    }

    /// Gives the host a disk on which VMs can still write so much, in bytes. Without one there is
    /// room for everything and nothing is known about it.
    pub fn set_free_disk(&self, bytes: u64) {
        self.world().disk.set_free(bytes);
    }

    /// Lets the guest of a VM write so many bytes. It is stalled when there is no room for them; what
    /// room there is, it takes.
    pub fn take_disk(&self, vm: VmId, bytes: u64) {
        self.world().disk.take(vm, bytes);
    }

    /// Lets a VM wait for disk space as if it had just written something.
    pub fn stall(&self, vm: VmId) {
        self.world().disk.stall(vm);
    }

    /// How much of the host's disk is free, in bytes.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.world().disk.free().unwrap_or(u64::MAX)
    }

    /// Whether a VM waits for disk space.
    #[must_use]
    pub fn is_stalled(&self, vm: VmId) -> bool {
        self.world().disk.stalled().contains(&vm)
    }

    /// Lets a VM crash, or its guest power it off: something of it is there, but it does not run.
    pub fn crash(&self, vm: VmId) {
        if let Some(vm) = self.world().vms.get_mut(&vm) {
            vm.running = false;
            if let Some(connection) = vm.connection.take() {
                connection.abort();
            }
        }
    }

    /// Closes the channel to a VM's agent; it can be opened again.
    pub fn hang_up(&self, vm: VmId) {
        let mut world = self.world();
        if let Some(connection) = world.vms.get_mut(&vm).and_then(|vm| vm.connection.take()) {
            connection.abort();
        }
    }

    /// Takes a VM away as if somebody else had destroyed it.
    pub fn vanish(&self, vm: VmId) {
        self.crash(vm);
        let mut world = self.world();
        world.vms.remove(&vm);
        world.disk.forget(vm);
    }

    /// Puts a VM there that no server started, as one that a former installation left.
    pub fn leave_behind(&self, vm: VmId, running: bool) {
        let mut fresh = SimVm::new(false, self.clock.clone());
        fresh.running = running;
        self.world().vms.insert(vm, fresh);
    }

    /// Looks at what a VM's guest tells and was told, or changes it; `None` if there is no such VM.
    pub fn guest<T>(&self, vm: VmId, change: impl FnOnce(&mut SimGuest) -> T) -> Option<T> {
        let agent = self.world().vms.get(&vm)?.agent.clone();
        Some(agent.guest(change))
    }

    /// What a VM's guest tells and was told, to be looked at also when the VM is gone.
    #[must_use]
    pub fn record(&self, vm: VmId) -> Option<Arc<Mutex<SimGuest>>> {
        Some(self.world().vms.get(&vm)?.agent.record())
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

    /// What the last start of this VM was: `cold`, `template` or `clone`.
    #[must_use]
    pub fn started_as(&self, vm: VmId) -> Option<&'static str> {
        let world = self.world();
        let mut starts = world.starts.iter().rev();
        starts.find(|(id, _)| *id == vm).map(|(_, kind)| *kind)
    }

    /// What a VM may reach, if there is such a VM.
    #[must_use]
    pub fn egress(&self, vm: VmId) -> Option<Egress> {
        Some(self.world().vms.get(&vm)?.egress)
    }

    /// VMs whose processors run.
    #[must_use]
    pub fn running(&self) -> BTreeSet<VmId> {
        let world = self.world();
        let running = world.vms.iter().filter(|(_, vm)| vm.running);
        running.map(|(id, _)| *id).collect()
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_fault(&self, verb: Verb, vm: Option<VmId>) -> Option<SimFault> {
        let mut world = self.world();
        let fault = world.script.next(verb, vm)?;
        if verb == Verb::Admit {
            world.admits.went_wrong += 1;
        }
        Some(fault)
    }

    async fn until_let_go(&self) {
        let mut let_go = self.let_go.subscribe();
        // This handle has the other end, so it does not close.
        let _ = let_go.changed().await;
    }

    /// Runs `act` as the script has it for `verb`; `lie` is what a liar answers.
    async fn perform<T>(
        &self,
        verb: Verb,
        vm: Option<VmId>,
        lie: impl FnOnce() -> T,
        act: impl FnOnce() -> Result<T, HypervisorError>,
    ) -> Result<T, HypervisorError> {
        let failed = || HypervisorError::Monitor {
            doing: "do what the script of faults forbids",
            detail: format!("{verb:?} was told to fail"),
        };
        match self.next_fault(verb, vm) {
            None => act(),
            Some(SimFault::Fails) => Err(failed()),
            Some(SimFault::FailsAfterwards) => act().and(Err(failed())),
            Some(SimFault::Lies) => Ok(lie()),
            Some(SimFault::Slow(duration)) => {
                tokio::time::sleep(duration).await;
                act()
            }
            Some(SimFault::ReturnsLate) => {
                let done = act();
                self.until_let_go().await;
                done
            }
            #[expect(
                clippy::panic,
                reason = "so that what outlives a fault of ours is seen to"
            )]
            Some(SimFault::Panics) => panic!("{verb:?} was told to panic"),
            Some(SimFault::Hangs) => {
                self.until_let_go().await;
                Err(HypervisorError::Timeout {
                    doing: "do what the script of faults lets hang",
                    limit_s: 0,
                })
            }
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
        self.perform(Verb::Start, Some(vm.id), report, || {
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
            let fresh = SimVm::new(kind == "clone", self.clock.clone());
            let mut world = self.world();
            fresh.agent.behave(world.manners);
            world.vms.insert(vm.id, fresh);
            Ok(report())
        })
        .await
    }

    async fn snapshot(&self, vm: VmId, _: &TemplateFiles) -> Result<(), HypervisorError> {
        self.perform(
            Verb::Snapshot,
            Some(vm),
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
        // What is scripted for an activation is not used up by who only looks how a guest is.
        let awaits_activation = {
            let world = self.world();
            let found = world.vms.get(&vm).filter(|vm| vm.running);
            found.is_some_and(|vm| vm.agent.awaits_activation())
        };
        let activation_fault = awaits_activation
            .then(|| self.next_fault(Verb::Activate, Some(vm)))
            .flatten();
        let dead_end = || -> Box<dyn Channel> { Box::new(tokio::io::duplex(1).0) };
        self.perform(Verb::Channel, Some(vm), dead_end, || {
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
            Some(vm),
            || (),
            || {
                self.vanish(vm);
                Ok(())
            },
        )
        .await
    }

    async fn list(&self) -> Result<Observed, HypervisorError> {
        self.perform(Verb::List, None, Observed::default, || {
            let world = self.world();
            let (running, still) = world
                .vms
                .iter()
                .partition::<Vec<_>, _>(|(_, vm)| vm.running);
            let ids = |vms: Vec<(&VmId, &SimVm)>| vms.into_iter().map(|(id, _)| *id).collect();
            let running: BTreeSet<VmId> = ids(running);
            Ok(Observed {
                stalled: &running & world.disk.stalled(),
                running,
                remnants: ids(still),
                disk_bytes: world.disk.taken().clone(),
                free_disk_bytes: world.disk.free(),
            })
        })
        .await
    }

    async fn shows(&self, vm: VmId) -> Result<bool, HypervisorError> {
        let act = || Ok(self.world().vms.contains_key(&vm));
        self.perform(Verb::Shows, Some(vm), || false, act).await
    }

    async fn admit(&self, vm: VmId, egress: Egress) -> Result<(), HypervisorError> {
        let act = || {
            let mut world = self.world();
            let found = world.vms.get_mut(&vm);
            found.ok_or(HypervisorError::NotRunning { vm })?.egress = egress;
            Ok(())
        };
        let _under_way = UnderWay::begin(self);
        self.perform(Verb::Admit, Some(vm), || (), act).await
    }

    async fn resume(&self, vm: VmId) -> Result<(), HypervisorError> {
        let act = || {
            let mut world = self.world();
            let found = world.vms.get(&vm).filter(|vm| vm.running);
            found.ok_or(HypervisorError::NotRunning { vm })?;
            world.disk.resume(vm);
            Ok(())
        };
        self.perform(Verb::Resume, Some(vm), || (), act).await
    }

    async fn free_disk(&self) -> Result<u64, HypervisorError> {
        let act = || Ok(self.free_bytes());
        self.perform(Verb::FreeDisk, None, || u64::MAX, act).await
    }

    async fn console_tail(&self, vm: VmId, max_bytes: usize) -> String {
        let world = self.world();
        let said = world.vms.get(&vm).map_or("", |vm| &vm.said);
        tail::shown(said, max_bytes)
    }
}

#[cfg(test)]
mod tests;
