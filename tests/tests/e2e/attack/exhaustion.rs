//! A guest that takes all it can get, and says whatever it likes to the server: it harms itself.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use e2e::footprint::own_memory_kib;
use e2e::process::{Watched, succeed};
use e2e::{Cli, Machine, TestServer, eventually, until};
use nix::unistd::Pid;
use remote_docker_api::LeaseState;

const PATIENCE: Duration = Duration::from_secs(120);

/// By how much the server's own memory may be larger afterwards, in KiB.
const MEMORY_SLACK_KIB: u64 = 24 * 1024;

/// Two leases: one of an attacker, who is root on its machine, and one of somebody else.
struct Scene {
    bystander: Machine,
    cli: Cli,
    attacker: String,
    attacker_vm: String,
    memory_before: u64,
    server: TestServer,
}

impl Scene {
    fn new() -> Self {
        let server = TestServer::start();
        let cli = server.cli();
        let lease: serde_json::Value =
            serde_json::from_str(&cli.ok(["start", "--format", "json"])).unwrap();
        let attacker = lease["lease_id"].as_str().unwrap().to_owned();
        let bystander = server.lease();
        bystander.docker().import_busybox();
        let attacker_vm = succeed(&mut ssh(&cli, &attacker, "hostname"));
        Self {
            memory_before: own_memory_kib(server.pid()),
            bystander,
            attacker,
            attacker_vm,
            cli,
            server,
        }
    }

    /// A script on the attacker's machine, as root.
    fn ssh(&self, script: &str) -> Command {
        ssh(&self.cli, &self.attacker, script)
    }

    /// Begins a script on the attacker's machine and lets it run.
    fn begin(&self, script: &str) -> Running {
        let mut command = self
            .cli
            .bare(["ssh", "--lease", &self.attacker, "--", script]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Running(command.spawn().unwrap())
    }

    /// The attacker's QEMU.
    fn qemu(&self) -> Pid {
        let name = format!("guest={},", self.attacker_vm);
        let machines = self.server.host().machines();
        let is_it = |pid: &Pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(&name)
        };
        machines.into_iter().find(is_it).unwrap()
    }

    fn folder(&self) -> PathBuf {
        self.server.state().join("vms").join(&self.attacker_vm)
    }

    /// The attacker's QEMU is in a group of its own, whose bound on memory never cost anybody's life.
    fn holds_its_bounds(&self) {
        let groups = self.server.host().groups();
        let own = groups.iter().filter(|it| it.ends_with(&self.attacker_vm));
        let own: Vec<_> = own.collect();
        assert!(!own.is_empty(), "{groups:?}");
        let killed = own.iter().flat_map(|group| {
            // Version 2 and version 1.
            ["memory.events", "memory.oom_control"].map(|name| group.join(name))
        });
        let killed: Vec<String> = killed.flat_map(fs::read_to_string).collect();
        assert!(
            killed
                .iter()
                .all(|text| text.lines().any(|line| line == "oom_kill 0")),
            "{killed:?}"
        );
    }

    /// The other lease is served, and the server has not grown.
    fn nobody_else_is_harmed(&self) {
        let docker = self.bystander.docker();
        assert_eq!(docker.busybox(&[], ["echo", "well"]), "well");
        let api = self.server.api();
        let lease = api.show(self.bystander.id(), 0).unwrap();
        assert_eq!(lease.state, LeaseState::Active, "{lease:?}");
        let now = own_memory_kib(self.server.pid());
        let most = self.memory_before + MEMORY_SLACK_KIB;
        assert!(now < most, "{} KiB before, {now} now", self.memory_before);
    }

    /// The attacker's machine can be taken away whatever it does.
    fn taken_away(self) {
        let qemu = Watched::open(self.qemu());
        let id = self.attacker.parse().unwrap();
        self.server.api().release(id);
        qemu.wait_gone(PATIENCE);
        self.server.wait_state(id, LeaseState::Ended);
        self.nobody_else_is_harmed();
        let vm = &self.attacker_vm;
        until(
            "nothing of the attacker's machine is left",
            PATIENCE,
            || self.server.host().files(),
            |files| !files.iter().any(|file| file.contains(vm)),
        );
    }
}

fn ssh(cli: &Cli, lease: &str, script: &str) -> Command {
    cli.command(["ssh", "--lease", lease, "--", script])
}

/// A client that is ended with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Takes the channel from the agent, which alone may open it, as a debugger would, and writes `$text` to it
/// until it is killed. 434 and 438 are the numbers of pidfd_open and pidfd_getfd.
fn flood(text: &str) -> String {
    format!(
        "exec perl -e '\
         my $init = syscall(434, 1, 0); my $number; \
         opendir(my $all, \"/proc/1/fd\"); \
         for (readdir $all) {{ my $to = readlink(\"/proc/1/fd/$_\"); $number = $_ + 0 if defined $to && $to =~ m[/vport]; }} \
         my $fd = syscall(438, $init, $number, 0); die \"no channel\" if $fd < 0; \
         open(my $port, \">&=$fd\") or die; print \"begun\\n\"; \
         my $text = {text}; \
         while (1) {{ defined syswrite($port, $text) or select(undef, undef, undef, 0.001) }}'"
    )
}

/// Ticks of a hundredth of a second that the server's threads have run.
fn processor_ticks(pid: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn floods_the_channel(text: &str) {
    let scene = Scene::new();
    let mut flooding = scene.begin(&flood(text));
    let vm = &scene.attacker_vm;
    eventually(
        "the server listens to the attacker no more",
        PATIENCE,
        || {
            assert_eq!(flooding.0.try_wait().unwrap(), None, "the flood has ended");
            let log = scene.server.log();
            let is_it =
                |line: &str| line.contains(vm) && line.contains("is not listened to any more");
            if log.lines().any(is_it) {
                Ok(())
            } else {
                Err("not yet")
            }
        },
    );
    // It still writes; what it writes is not read, or too slowly to matter.
    let before = processor_ticks(scene.server.pid());
    let log_before = scene.server.log().len();
    for _ in 0..2 {
        scene.nobody_else_is_harmed();
    }
    let ticks = processor_ticks(scene.server.pid()) - before;
    let log = scene.server.log();
    // Serving the bystander twice takes some; a server that reads all it can get takes all it can get.
    assert!(
        ticks < 1000,
        "{ticks} hundredths of a second of the processor"
    );
    assert!(
        log.len() - log_before < 100_000,
        "{} bytes of log",
        log.len() - log_before
    );
    drop(flooding);
    scene.taken_away();
}

#[test]
fn raw_bytes_on_the_channel() {
    floods_the_channel("\"\\xff\" x 65536");
}

#[test]
fn events_without_end_on_the_channel() {
    floods_the_channel(
        "(\"{\\\"event\\\":{\\\"daemon_exited\\\":{\\\"daemon\\\":\\\"x\\\",\\\"status\\\":\\\"y\\\"}}}\\n\") x 500",
    );
}

#[test]
fn empty_lines_without_end_on_the_channel() {
    floods_the_channel("\"\\n\" x 65536");
}

/// How many connections the flood below keeps open at a time, as far as it is let.
const FLOOD: usize = 600;

/// The relay's bounds on handshakes that are under way at one port, and what else comes and goes in the server.
const MOST_FILES: usize = 2 * 128 + 100;

/// Connections to the attacker's own port at the relay: some say nothing, some begin TLS and do not go on.
#[test]
fn handshakes_without_end_on_a_port_of_the_relay() {
    let scene = Scene::new();
    let id = scene.attacker.parse().unwrap();
    let docker = scene.server.api().show(id, 0).unwrap().docker.unwrap();
    let address = docker.host.strip_prefix("tcp://").unwrap().to_owned();
    let server = scene.server.pid();
    let files = || fs::read_dir(format!("/proc/{server}/fd")).unwrap().count();
    let before = files();
    let (over, made) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let flood = {
        let (over, made) = (Arc::clone(&over), Arc::clone(&made));
        std::thread::spawn(move || {
            let mut held = VecDeque::new();
            while !over.load(Ordering::Relaxed) {
                // One that is refused is tried again.
                let Ok(mut one) = TcpStream::connect(&address) else {
                    continue;
                };
                let begun = made.fetch_add(1, Ordering::Relaxed);
                if begun % 2 == 0 {
                    // The beginning of a record of a handshake that says it has 512 bytes.
                    let _ = one.write_all(&[0x16, 3, 1, 2, 0]);
                }
                held.push_back(one);
                if held.len() > FLOOD {
                    held.pop_front();
                }
            }
        })
    };
    until(
        "the flood is there",
        PATIENCE,
        || made.load(Ordering::Relaxed),
        |made| *made > 2 * FLOOD,
    );
    for _ in 0..3 {
        scene.nobody_else_is_harmed();
        let now = files();
        assert!(
            now < before + MOST_FILES,
            "{before} files before, {now} now"
        );
    }
    over.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    // And its own lease is well again.
    assert!(!succeed(&mut scene.ssh("hostname")).is_empty());
    scene.taken_away();
}

/// Processes that multiply, and never give up: who cannot make another says so and tries again.
const BOMB: &str = "exec perl -e '\
    $| = 1; print \"begun\\n\"; my $said; \
    while (1) { next if defined fork; print \"full\\n\" unless $said++; sleep 1 }'";

/// Memory, the disk, the console, then processes until there can be no more.
#[test]
fn a_machine_that_takes_all_it_can_get() {
    let scene = Scene::new();
    let qemu = scene.qemu();
    let threads = || fs::read_dir(format!("/proc/{qemu}/task")).unwrap().count();
    let out_of_memory = |log: &str| log.matches("the machine is out of memory").count();

    // Memory: the guest's kernel ends whoever takes it, and Docker goes on.
    let greedy = "perl -e 'my @all; push @all, \"x\" x 1000000 while 1'; echo ended $?";
    let said = succeed(&mut scene.ssh(greedy));
    assert!(
        said.starts_with("ended 137") || said.starts_with("ended 1"),
        "{said}"
    );
    scene.nobody_else_is_harmed();
    let status = fs::read_to_string(format!("/proc/{qemu}/status")).unwrap();
    let most = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let most_kib: u64 = most.split_whitespace().next().unwrap().parse().unwrap();
    // Its memory, and what QEMU has for itself; its translator keeps up to 1 GiB.
    assert!(most_kib < (1024 + 1024 + 512) << 10, "{most_kib} KiB");

    // Its disk, more of it than it has memory, while that is full: what the kernel keeps of it in memory is given
    // up, and nobody is ended for want of it.
    let said = succeed(&mut scene.ssh(
        "perl -e 'vec($all, 400000000, 8) = 1; sleep 600' & hold=$!; \
         dd if=/dev/zero of=/var/lib/written bs=1M count=2500 conv=fsync 2>/dev/null && echo written; \
         rm -f /var/lib/written; kill $hold",
    ));
    assert_eq!(said.trim(), "written");
    scene.holds_its_bounds();

    // The console, which the server keeps the end of.
    let shouting =
        scene.begin("echo $$ >/run/shouts; exec dd if=/dev/zero of=/dev/ttyS0 bs=64k 2>/dev/null");
    let console = scene.folder().join("console.log");
    until(
        "the console is flooded",
        PATIENCE,
        || fs::metadata(&console).unwrap().len(),
        |length| *length > 1 << 20,
    );
    let kept = until(
        "what is kept of the console is bounded",
        PATIENCE,
        || fs::metadata(&console).unwrap().blocks() * 512,
        |kept| *kept <= 1 << 20,
    );
    assert!(kept > 0);
    drop(shouting);
    succeed(&mut scene.ssh("kill $(cat /run/shouts)"));
    let killed_before = out_of_memory(&scene.server.log());

    // Processes, each of which makes more, until the machine can make no more, has no memory left for them, or has
    // ended what holds the connection to make room.
    let mut bomb = scene.begin(BOMB);
    let mut heard = BufReader::new(bomb.0.stdout.take().unwrap()).lines();
    assert_eq!(heard.next().unwrap().unwrap(), "begun");
    let full = std::thread::spawn(move || heard.map_while(Result::ok).any(|line| line == "full"));
    until(
        "processes multiply",
        2 * PATIENCE,
        || (full.is_finished(), out_of_memory(&scene.server.log())),
        |(is_over, killed)| *is_over || *killed > killed_before,
    );
    for _ in 0..2 {
        scene.nobody_else_is_harmed();
    }
    assert!(threads() < 100, "{} threads of QEMU", threads());
    drop(bomb);
    scene.taken_away();
}
