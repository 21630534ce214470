//! What the relay carries, in turns with a TCP connection without it.
//!
//! ```text
//!   host's namespace          VMs' namespace            guest's namespace
//!   sender ─ loopback ─ relay ─┬─ veth ──────────────── sink        through the relay
//!                      sender ─┘                                    directly
//! ```
//!
//! The relay is the server's own, in a process of its own whose processor time is counted. In the guest's place is a
//! namespace: what an emulated machine can take is less than either carries. Both are measured with the congestion
//! control that the host gives every connection, and with one that does not pace, as the relay's own connections to
//! guests have: pacing takes more processor time than all the rest.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use e2e::figures::{Goal, Part, Unit};
use e2e::process::{Sleeps, bounded, succeed};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{
    self as net, AddressFamily, SockFlag, SockType, SockaddrIn, setsockopt, socket, sockopt,
};
use nix::unistd::Pid;
use remote_docker_api::LeaseId;
use remote_dockerd::network::{Dial, guest_socket};
use remote_dockerd::relay::{Limits, Relay, Route};
use tokio::net::TcpSocket;

use crate::Plan;
use crate::processes::processor_s;

/// What this program is called with to be the relay.
pub(crate) const CHILD: &str = "relay-process";

const NEAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const SINK: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 2), 9000);
const RELAY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9001);
const LIMIT: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;
/// How many streams the second measurement has.
const MANY: u64 = 8;

pub(crate) fn measure(plan: &Plan) -> Part {
    // In namespaces that go with this thread and with what it holds.
    thread::scope(|scope| {
        let measured = scope.spawn(|| in_own_namespace(plan)).join();
        measured.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn in_own_namespace(plan: &Plan) -> Part {
    let mut part = Part::begin(
        "relay",
        "Bytes through the server's relay into the VMs' namespace and on to a sink, in turns with a TCP connection \
         from there to the same sink.",
    );
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (takes root)");
    succeed(bounded(LIMIT, "ip").args(["link", "set", "lo", "up"]));
    let (vms, guest) = (Place::new(), Place::new());
    join(&vms, &guest);
    let sink = guest.run(|| TcpListener::bind(SINK).expect("a port for the sink"));
    thread::spawn(move || swallow(&sink));
    let bench = Bench {
        relay: Process::start(&vms),
        vms,
        bytes: plan.relay_mib * MIB,
    };
    for round in 0..=plan.relay_rounds {
        for streams in [1, MANY] {
            for pacing in [Pacing::AsTheHost, Pacing::None] {
                let direct = bench.carry(streams, pacing, Way::Direct);
                let relayed = bench.carry(streams, pacing, Way::Relay);
                // The first round warms everything up.
                if round > 0 {
                    add(&mut part, streams, pacing, &direct, &relayed);
                }
            }
        }
    }
    for streams in [1, MANY] {
        compare(&mut part, streams);
    }
    part.note(format!(
        "{} MiB each time, over all streams together. The host's congestion control is {}, which the direct connection and the sender have; *not paced* is with Reno. Sender, relay \
         and sink share the processors: what the relay uses, the other two lack. What the processors allow is what \
         they would carry if none of them ever rested, by the processor time that the three took together.",
        plan.relay_mib,
        host_control(),
    ));
    part
}

/// By which control of congestion the sender sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pacing {
    AsTheHost,
    None,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Relay,
}

fn host_control() -> String {
    let control = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    control.expect("the kernel's default").trim().to_owned()
}

fn names(streams: u64, pacing: Pacing, what: &str) -> String {
    let pacing = match pacing {
        Pacing::AsTheHost => "",
        Pacing::None => "not paced, ",
    };
    match streams {
        1 => format!("one stream, {pacing}{what}"),
        many => format!("{many} streams, {pacing}{what}"),
    }
}

const DIRECT: &str = "direct";
const RELAYED: &str = "relay";
const ENDS_DIRECT: &str = "processor time of sender and sink, direct";
const ENDS_RELAYED: &str = "processor time of sender and sink, relay";
const OF_RELAY: &str = "processor time of the relay";
const BUSY: &str = "processors that the relay keeps busy";
const WOKEN: &str = "wake-ups of the relay in a GiB";

fn add(part: &mut Part, streams: u64, pacing: Pacing, direct: &Took, relayed: &Took) {
    let mut add = |what, unit, sample| part.add(&names(streams, pacing, what), unit, sample);
    add(DIRECT, Unit::MiBPerS, direct.rate());
    add(RELAYED, Unit::MiBPerS, relayed.rate());
    add(ENDS_DIRECT, Unit::CpuSPerGiB, direct.ends_s / direct.gib());
    add(
        ENDS_RELAYED,
        Unit::CpuSPerGiB,
        relayed.ends_s / relayed.gib(),
    );
    add(OF_RELAY, Unit::CpuSPerGiB, relayed.relay_s / relayed.gib());
    if pacing == Pacing::AsTheHost {
        add(BUSY, Unit::Cores, relayed.relay_s / relayed.seconds);
        add(WOKEN, Unit::Count, relayed.woken as f64 / relayed.gib());
    }
}

fn compare(part: &mut Part, streams: u64) {
    let processors = std::thread::available_parallelism().expect("processors");
    for pacing in [Pacing::AsTheHost, Pacing::None] {
        let median = |what| part.median(&names(streams, pacing, what));
        let direct = median(DIRECT);
        let ratio = median(RELAYED) / direct;
        let each = (median(ENDS_RELAYED) + median(OF_RELAY)) / 1024.0;
        let most = processors.get() as f64 / each / direct;
        let goal = (pacing == Pacing::AsTheHost).then_some(Goal::AtLeast(0.9));
        let name = names(streams, pacing, "relay: so many times direct");
        part.value(&name, Unit::Times, ratio, goal);
        let name = format!("the most that {processors} processors allow: so many times direct");
        let name = names(streams, pacing, &name);
        part.value(&name, Unit::Times, most, None);
    }
    let of_relay = names(streams, Pacing::AsTheHost, OF_RELAY);
    part.ask(&of_relay, Goal::AtMost(0.5));
}

/// A network namespace.
struct Place(File);

impl Place {
    fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (takes root)");
            File::open("/proc/thread-self/ns/net").expect("the namespace")
        });
        Self(made.join().expect("a namespace"))
    }

    /// Does something in it.
    fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("entering a namespace");
                job()
            });
            let done = there.join();
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// What other programs may call it while this one lives.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// A cable between the two.
fn join(vms: &Place, guest: &Place) {
    let script = format!(
        "ip link add near type veth peer name far
         ip address add {NEAR}/24 dev near
         ip link set near up"
    );
    vms.run(|| succeed(bounded(LIMIT, "sh").args(["-e", "-c", &script])));
    // `ip` knows a namespace by a process in it.
    let mut holder = guest.run(|| {
        let mut cat = Command::new("cat");
        cat.stdin(Stdio::piped()).stdout(Stdio::null());
        cat.spawn().expect("running cat")
    });
    let pid = holder.id();
    vms.run(|| {
        let mut ip = bounded(LIMIT, "ip");
        succeed(
            ip.args(["link", "set", "far", "netns"])
                .arg(pid.to_string()),
        )
    });
    let _ = holder.kill();
    let _ = holder.wait();
    let script = format!(
        "ip address add {}/24 dev far
         ip link set far up",
        SINK.ip()
    );
    guest.run(|| succeed(bounded(LIMIT, "sh").args(["-e", "-c", &script])));
}

/// Takes all that comes over each connection and answers how much it was. The first byte is answered at once, as a
/// TLS server answers the first word of its client.
fn swallow(listener: &TcpListener) {
    while let Ok((mut stream, _)) = listener.accept() {
        thread::spawn(move || {
            let mut word = [0];
            stream.read_exact(&mut word).expect("a first byte");
            stream.write_all(&word).expect("a sender");
            let (mut buffer, mut count) = (vec![0; 256 * 1024], 0_u64);
            loop {
                match stream.read(&mut buffer).expect("bytes") {
                    0 => break,
                    read => count += read as u64,
                }
            }
            stream.write_all(&count.to_be_bytes()).expect("a sender");
        });
    }
}

fn connect(to: SocketAddrV4, pacing: Pacing) -> TcpStream {
    let (family, kind) = (AddressFamily::Inet, SockType::Stream);
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    if pacing == Pacing::None {
        let reno = OsString::from("reno");
        setsockopt(&socket, sockopt::TcpCongestion, &reno).expect("every kernel has it");
    }
    net::connect(socket.as_raw_fd(), &SockaddrIn::from(to)).expect("a connection");
    let mut stream = TcpStream::from(socket);
    let mut word = [7];
    stream.write_all(&word).expect("the sink");
    stream.read_exact(&mut word).expect("the sink");
    stream
}

/// What so many bytes took.
struct Took {
    bytes: u64,
    seconds: f64,
    /// Processor time of sender and sink.
    ends_s: f64,
    /// Processor time of the relay.
    relay_s: f64,
    /// How often the relay was woken.
    woken: u64,
}

impl Took {
    fn gib(&self) -> f64 {
        self.bytes as f64 / 1024.0 / MIB as f64
    }

    fn rate(&self) -> f64 {
        self.gib() * 1024.0 / self.seconds
    }
}

struct Bench {
    vms: Place,
    relay: Process,
    bytes: u64,
}

impl Bench {
    /// Sends over so many streams at once: from when all are connected until the sink has said of each that it
    /// has everything.
    fn carry(&self, streams: u64, pacing: Pacing, way: Way) -> Took {
        let one = || match way {
            Way::Direct => self.vms.run(|| connect(SINK, pacing)),
            Way::Relay => connect(RELAY, pacing),
        };
        let connected: Vec<TcpStream> = (0..streams).map(|_| one()).collect();
        let each = self.bytes / streams;
        let (own, relay) = (Pid::this(), self.relay.pid());
        let before = (processor_s(own), processor_s(relay), Sleeps::of(relay));
        let begun = Instant::now();
        thread::scope(|scope| {
            for stream in connected {
                scope.spawn(move || send(stream, each));
            }
        });
        let seconds = begun.elapsed().as_secs_f64();
        Took {
            bytes: each * streams,
            seconds,
            ends_s: processor_s(own) - before.0,
            relay_s: processor_s(relay) - before.1,
            woken: Sleeps::of(relay).since(&before.2),
        }
    }
}

fn send(mut stream: TcpStream, bytes: u64) {
    let buffer = vec![0x5a; 256 * 1024];
    let mut left = bytes;
    while left > 0 {
        let now = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        stream.write_all(&buffer[..now]).expect("the sink");
        left -= now as u64;
    }
    stream.shutdown(Shutdown::Write).expect("an end");
    let mut count = [0; 8];
    stream.read_exact(&mut count).expect("the sink's answer");
    assert_eq!(u64::from_be_bytes(count), bytes, "some of it got lost");
}

/// The process that is the relay. It ends with its input.
struct Process(Child);

impl Process {
    fn start(vms: &Place) -> Self {
        let own = std::env::current_exe().expect("this program's path");
        let mut command = Command::new(own);
        command.arg(CHILD).arg(vms.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("running the relay");
        let said = child.stdout.take().expect("its output");
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line).expect("a word");
        assert_eq!(line, "open\n", "the relay did not open its port");
        Self(child)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).expect("a process id"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Is the relay, until the input ends.
pub(crate) fn be(vms: PathBuf) {
    let inside = Inside(Arc::new(File::open(vms).expect("the VMs' namespace")));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let relay = Relay::new(Arc::new(inside), *RELAY.ip(), Limits::default());
        let unopened = relay.publish([Route {
            lease: LeaseId::from_bits(1),
            port: RELAY.port(),
            guest: SINK,
        }]);
        assert!(unopened.is_empty(), "the relay's port is taken");
        println!("open");
        let ended = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0; 1]));
        let _ = ended.await;
        drop(relay);
    });
}

/// Makes its sockets in the VMs' namespace, as the server's own dialer does.
struct Inside(Arc<File>);

#[async_trait]
impl Dial for Inside {
    async fn dial(&self, to: SocketAddrV4) -> std::io::Result<tokio::net::TcpStream> {
        let place = self.0.clone();
        let made = tokio::task::spawn_blocking(move || {
            thread::spawn(move || {
                setns(&*place, CloneFlags::CLONE_NEWNET)?;
                guest_socket()
            })
            .join()
        });
        let socket = made.await?.map_err(|_| std::io::ErrorKind::Other)??;
        TcpSocket::from_std_stream(socket.into())
            .connect(to.into())
            .await
    }
}
