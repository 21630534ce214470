//! A small world in network namespaces:
//!
//! ```text
//!   guests ══ taps ══ VMs' namespace ── veth ── the test's thread, as the host ── veth ── the Internet
//! ```
//!
//! A guest is a namespace with a tap of its own; two threads carry frames between that tap and the
//! wire's, which they open the way QEMU does. So wires are tested as they are, with the kernel's own
//! network stack at the other end. All of it is gone with the test's process.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use remote_docker_api::Egress;
use tokio::runtime::{Builder, Runtime};

use crate::config::MachineLimits;
use crate::ids::{InstallId, VmId};
use crate::network::worker::Worker;
use crate::network::{Network, NetworkConfig, Uplink, namespace, tap};

pub(super) const INSTALL: InstallId = InstallId::from_bits(7);
pub(super) const GUESTS: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 0);
/// The host's own address, a public one as on a rented server.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 1);
/// A server on the Internet.
pub(super) const PUBLIC: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);
/// A server in the private network that the host is in.
pub(super) const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// For what is expected to come through, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);
/// For what is expected not to: long against a round trip here, which takes less than a millisecond.
/// Where this is not long enough to tell silence from slowness, the test's second half finds out.
const SILENCE: Duration = Duration::from_millis(700);

pub(super) struct Lab {
    runtime: Runtime,
}

impl Lab {
    /// Moves the test's thread into a host of its own.
    pub(super) fn new() -> Self {
        assert!(
            geteuid().is_root(),
            "this test makes network namespaces, which takes root: run the tests as root"
        );
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).unwrap();
        mount(none, "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        ip("link set lo up");
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime }
    }

    pub(super) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub(super) fn open(&self, config: NetworkConfig) -> Network {
        self.wait(Network::open(config)).unwrap()
    }

    /// A place with its own network that knows nothing of anybody.
    pub(super) fn place(&self) -> Place<'_> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            namespace::current().unwrap()
        });
        self.place_at(made.join().unwrap())
    }

    /// Where the VMs' wires are.
    pub(super) fn inside(&self, network: &Network) -> Place<'_> {
        self.place_at(namespace::handle(network.namespace.object()).unwrap())
    }

    fn place_at(&self, object: File) -> Place<'_> {
        let worker = Worker::start("place", object.try_clone().unwrap()).unwrap();
        Place {
            lab: self,
            worker,
            object,
        }
    }

    /// The Internet, joined to the host, and the host's private network behind it for simplicity.
    pub(super) fn internet(&self) -> Place<'_> {
        let place = self.place();
        let object = place.object.try_clone().unwrap();
        // `ip` takes another namespace by a process in it or by name; a mount gives it the name.
        fs::create_dir_all("/run/netns").unwrap();
        File::create("/run/netns/internet").unwrap();
        let none: Option<&str> = None;
        let from = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&object));
        let bind = MsFlags::MS_BIND;
        mount(Some(from.as_str()), "/run/netns/internet", none, bind, none).unwrap();
        ip("link add wan type veth peer name eth0 netns internet");
        ip(&format!("address add {HOST}/24 dev wan"));
        ip("link set wan up");
        ip(&format!("route add {PRIVATE}/32 via {PUBLIC}"));
        place.run(|| {
            ip("link set lo up");
            ip(&format!("address add {PUBLIC}/24 dev eth0"));
            ip(&format!("address add {PRIVATE}/32 dev lo"));
            ip("link set eth0 up");
        });
        place
    }

    /// A guest on a wire of its own.
    pub(super) fn guest(&self, network: &Network, number: u8) -> Guest<'_> {
        let guest = self.wire_guest(network, number);
        self.wait(network.wires.admit(guest.vm, Egress::Internet))
            .unwrap();
        guest
    }

    /// The same on a new wire: a guest that nothing is allowed yet.
    pub(super) fn wire_guest(&self, network: &Network, number: u8) -> Guest<'_> {
        let vm = VmId::from_bits(u64::from(number));
        let address = Ipv4Addr::new(10, 213, 0, number);
        self.wait(network.wires.attach(vm, address)).unwrap();
        let wire = self
            .inside(network)
            .run(move || tap::open(&vm.tap()).unwrap());
        let place = self.place();
        let card = place.run(move || {
            let card = tap::open("eth0").unwrap();
            ip("link set lo up");
            ip("link set eth0 address 52:54:00:00:00:02 up");
            ip(&format!("address add {address}/32 dev eth0"));
            ip("route add 169.254.1.1 dev eth0");
            ip("route add default via 169.254.1.1");
            card
        });
        carry(wire.try_clone().unwrap(), card.try_clone().unwrap());
        carry(card, wire);
        // A wire drops all until the kernel has noticed, a moment after it was opened, that somebody is
        // at its other end; a lost first packet is sent again after a second, beyond our patience.
        self.inside(network).run(move || until_up(&vm.tap()));
        Guest { vm, address, place }
    }
}

/// Carries frames until either end is gone.
fn carry(mut from: File, mut to: File) {
    thread::spawn(move || {
        let mut frame = vec![0; 70_000];
        while let Ok(length) = from.read(&mut frame) {
            // A full or switched off device drops frames, as a real one would.
            let _ = to.write(&frame[..length]);
        }
    });
}

/// A network namespace, and a thread in it.
pub(super) struct Place<'a> {
    lab: &'a Lab,
    worker: Worker,
    object: File,
}

impl Place<'_> {
    pub(super) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.lab.wait(self.worker.run(job)).unwrap()
    }

    /// Greets everyone who connects to this port.
    pub(super) fn serve(&self, port: u16) {
        self.run(move || greet(port));
    }

    /// Whether connecting brings the greeting, with a long wait for it.
    pub(super) fn reaches(&self, address: Ipv4Addr, port: u16) -> bool {
        self.run(move || reach(address, port, PATIENCE))
    }

    /// Whether connecting brings nothing but silence.
    pub(super) fn is_kept_from(&self, address: Ipv4Addr, port: u16) -> bool {
        !self.run(move || reach(address, port, SILENCE))
    }
}

/// A virtual machine as far as the network can tell.
pub(super) struct Guest<'a> {
    pub(super) vm: VmId,
    pub(super) address: Ipv4Addr,
    pub(super) place: Place<'a>,
}

/// [`Place::serve`] on the calling thread, which is the host.
pub(super) fn greet(port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let _ = connection.and_then(|mut connection| connection.write_all(b"hello"));
        }
    });
}

/// Connects from the calling thread. Only silence counts as blocked: any other failure means that the
/// test does not test what it says.
fn reach(address: Ipv4Addr, port: u16, patience: Duration) -> bool {
    let to = SocketAddrV4::new(address, port).into();
    let heard = TcpStream::connect_timeout(&to, patience).and_then(|mut connection| {
        connection.set_read_timeout(Some(patience))?;
        let mut greeting = [0; 5];
        connection.read_exact(&mut greeting)?;
        Ok(greeting)
    });
    match heard {
        Ok(greeting) => greeting == *b"hello",
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
            ) =>
        {
            false
        }
        Err(error) => panic!("reaching {address}:{port} failed in an unexpected way: {error}"),
    }
}

/// Runs `ip` in the calling thread's namespace.
pub(super) fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("run `ip` (package iproute2): {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(super) fn until_up(device: &str) {
    let shown = || ip(&format!("-o link show dev {device}"));
    let up = (0..4000).any(|_| {
        thread::sleep(Duration::from_millis(5));
        shown().contains("state UP")
    });
    assert!(up, "{}", shown());
}

/// What `nft` lists in the calling thread's namespace.
pub(super) fn nft_tables() -> String {
    let output = Command::new("nft")
        .args(["list", "tables"])
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(super) fn config(uplink: Uplink) -> NetworkConfig {
    NetworkConfig {
        install: INSTALL,
        guests: GUESTS,
        uplink,
        resolvers: Vec::new(),
        allow: Vec::new(),
        reach_on_host: Vec::new(),
        limits: MachineLimits::default(),
    }
}
