//! What the relay carries, in turns with a TCP connection without it.
//!
//! ```text
//!   host's namespace          VMs' namespace            guest's namespace
//!   sender ─ loopback ─ relay ─┬─ veth ──────────────── sink        through the relay
//!                      sender ─┘                                    directly
//! ```
//!
//! The relay is the server's own, in a process of its own whose processor time is counted. In the guest's place is a
//! namespace: what an emulated machine can take is less than either carries.

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
use e2e::process::{bounded, succeed};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::Pid;
use remote_docker_api::LeaseId;
use remote_dockerd::network::Dial;
use remote_dockerd::relay::{Limits, Relay, Route};

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
    let relay = Process::start(&vms);
    let total = plan.relay_mib;
    for round in 0..=plan.relay_rounds {
        for streams in [1, MANY] {
            let each = total * MIB / streams;
            let direct = rate(streams, each, || vms.run(|| connect(SINK)));
            let before = processor_s(relay.pid());
            let relayed = rate(streams, each, || connect(RELAY));
            let used = processor_s(relay.pid()) - before;
            // The first round warms everything up.
            if round > 0 {
                let name = |what: &str| names(streams, what);
                part.add(&name("direct"), Unit::MiBPerS, direct);
                part.add(&name("relay"), Unit::MiBPerS, relayed);
                let each = used * 1024.0 / total as f64;
                part.add(&name("processor time of the relay"), Unit::CpuSPerGiB, each);
            }
        }
    }
    for streams in [1, MANY] {
        let name = |what: &str| names(streams, what);
        let ratio = format!("{}: so many times direct", names(streams, "relay"));
        part.ratio(&ratio, &name("relay"), &name("direct"), Goal::AtLeast(0.9));
        part.ask(&name("processor time of the relay"), Goal::AtMost(0.5));
    }
    part.note(format!(
        "{total} MiB each time, over all streams together. Sender, relay and sink share the processors: what the relay \
         uses, the other two lack."
    ));
    part
}

fn names(streams: u64, what: &str) -> String {
    match streams {
        1 => format!("one stream, {what}"),
        many => format!("{many} streams, {what}"),
    }
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

fn connect(to: SocketAddrV4) -> TcpStream {
    let mut stream = TcpStream::connect(to).expect("a connection");
    let mut word = [7];
    stream.write_all(&word).expect("the sink");
    stream.read_exact(&mut word).expect("the sink");
    stream
}

/// Sends over so many streams at once, and answers how many MiB went through in a second: from when all are
/// connected until the sink has said of each that it has everything.
fn rate(streams: u64, each: u64, connect: impl Fn() -> TcpStream) -> f64 {
    let connected: Vec<TcpStream> = (0..streams).map(|_| connect()).collect();
    let begun = Instant::now();
    thread::scope(|scope| {
        for stream in connected {
            scope.spawn(move || send(stream, each));
        }
    });
    (streams * each / MIB) as f64 / begun.elapsed().as_secs_f64()
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
                TcpStream::connect(to)
            })
            .join()
        });
        let stream = made.await?.map_err(|_| std::io::ErrorKind::Other)??;
        stream.set_nonblocking(true)?;
        tokio::net::TcpStream::from_std(stream)
    }
}
