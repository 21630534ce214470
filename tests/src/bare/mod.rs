//! QEMU without anything around it: the floor that a lease is compared with. The machine is that of the server's
//! clones, from the same template; there is no libvirt, and for the floor no network in use and no TLS: what it is
//! asked is asked over the agent's serial port. In between the floor and a lease is such a machine with an identity of its own,
//! which is asked over TLS: what that takes is the guest's share of a lease.

mod held;
mod monitor;
mod recipe;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::{bounded, succeed};
use monitor::{Agent, Monitor};
use recipe::Places;

pub use held::Held;
pub use recipe::{Recipe, Start};

/// For the programs that make what a machine needs.
const LIMIT: Duration = Duration::from_secs(20);
/// The network card, which leads to this namespace and no further.
const TAP: &str = "bare0";

/// Where bare machines are run, one at a time.
#[derive(Debug)]
pub struct Bare {
    recipe: Recipe,
    folder: PathBuf,
}

/// How long a machine took, from the moment at which QEMU was started.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// Until QEMU had made its devices and listened.
    pub listening: Duration,
    /// Until the guest's Docker daemon had answered.
    pub whole: Duration,
    /// Blocks of the guest's instructions that QEMU had translated by then; `None` where it translates none.
    pub translated: Option<u64>,
}

/// A machine that runs. It ends when this is dropped.
struct Machine {
    _process: Process,
    monitor: Monitor,
    agent: Agent,
    begun: Instant,
    listening: Duration,
}

/// A QEMU that is killed when this is dropped.
struct Process(Child);

impl Bare {
    /// Below `folder`, in the calling thread's network namespace, which gets a card for the machine.
    ///
    /// # Panics
    /// When the system refuses.
    #[must_use]
    pub fn new(recipe: Recipe, folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).expect("a folder");
        succeed(
            bounded(LIMIT, "ip").args(["tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr"]),
        );
        held::lay_wire(TAP);
        Self { recipe, folder }
    }

    /// Runs a machine until its Docker daemon has answered, and tells how long that took. Its disk is made before.
    ///
    /// # Panics
    /// When it does not.
    pub fn run(&self, start: Start) -> Took {
        let mut machine = self.start(start);
        match start {
            Start::Clone => machine.agent.wait_docker(),
            Start::Boot => machine.agent.wait_booted(),
        }
        let whole = machine.begun.elapsed();
        Took {
            listening: machine.listening,
            whole,
            translated: machine.monitor.translated(),
        }
    }

    fn start(&self, start: Start) -> Machine {
        let places = Places {
            folder: &self.folder,
            tap: TAP,
        };
        for path in [places.monitor(), places.channel(), places.disk()] {
            let _ = fs::remove_file(path);
        }
        let mut disk = bounded(LIMIT, "qemu-img");
        disk.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]);
        succeed(disk.arg(self.recipe.backing(start)).arg(places.disk()));
        let log = fs::File::create(self.folder.join("qemu.log")).expect("a log");
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(self.recipe.arguments(start, &places));
        qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);

        let begun = Instant::now();
        let process = Process(qemu.spawn().expect("running QEMU"));
        let mut monitor = Monitor::connect(&places.monitor());
        let listening = begun.elapsed();
        if start == Start::Clone {
            monitor.load(&self.recipe.template().join("devices"));
        }
        monitor.go();
        Machine {
            _process: process,
            monitor,
            agent: Agent::connect(&places.channel()),
            begun,
            listening,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
