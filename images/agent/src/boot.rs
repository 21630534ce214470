//! The second life: bring the system up, start Docker, serve the server.

use std::convert::Infallible;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use guest_protocol::{Event, PORT_NAME, Phase};
use nix::sys::resource::{Resource, setrlimit};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::agent::{Agent, State};
use crate::console::{self, say};
use crate::net::Card;
use crate::port::Port;
use crate::reaper::{Exit, Reaper};
use crate::ssh::Sshd;
use crate::supervise::{self, Daemon, RunningPid};
use crate::{binfmt, channel, docker, identity, mounts, net, oom};

/// Where programs of the guest are found.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The same for `dockerd`, which asks runc for its version again and again: what answers for it comes first. Nobody
/// else is to find that, least of all the shims that run containers.
const DOCKERD_PATH: &str =
    "/usr/libexec/remote-docker:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the server says on the kernel's command line where guests may run machines of their own.
const NESTED: &str = "remote_docker.nested";
const KVM: &str = "/dev/kvm";

/// Kernel modules that Docker wants, one per line.
const MODULES: &str = "/etc/modules-load.d/docker.conf";

const MODULES_PATIENCE: Duration = Duration::from_secs(60);

/// Events that wait for the channel; more are lost, and the server asks for the status anyway.
const MAX_EVENTS: usize = 64;

/// IPv6 stays off until the host filters it as well.
const SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    // Enough for a machine full of containers that watch files.
    ("fs/inotify/max_user_instances", "8192"),
    ("fs/inotify/max_user_watches", "524288"),
    // What a Debian machine has from the packages that set it there; the kernel's own values are older.
    ("fs/protected_symlinks", "1"),
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_fifos", "1"),
    ("fs/protected_regular", "2"),
    ("kernel/kptr_restrict", "1"),
    ("kernel/unprivileged_bpf_disabled", "2"),
    // A kernel that ends a process for want of memory lists all there are first: thousands of lines, between which
    // the one that matters may get lost.
    ("vm/oom_dump_tasks", "0"),
    // A machine that does nothing is to sleep, as there may be many on a host: no looks every half second for memory
    // to put together, which is done when it is wanted, ...
    ("vm/compaction_proactiveness", "0"),
    // ... every second at counters that nobody reads, ...
    ("vm/stat_interval", "120"),
    // ... every four seconds at whether a processor hangs, which one that waits for its host seems to, ...
    ("kernel/watchdog", "0"),
    // ... and every five at neighbours, of which there is one that never changes. In milliseconds.
    ("net/ipv4/neigh/default/interval_probe_time_ms", "3600000"),
    ("net/ipv6/neigh/default/interval_probe_time_ms", "3600000"),
    // There is one way out, and nobody may tell another.
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/all/accept_source_route", "0"),
    ("net/ipv4/conf/default/accept_source_route", "0"),
];

/// Soft and hard limit of open files, for the agent, the daemons and through them for containers. The
/// soft one is modest because some programs walk over all of it.
const OPEN_FILES: (u64, u64) = (65_536, 1_048_576);

const CONTAINERD: Daemon = Daemon {
    name: "containerd",
    arguments: &[],
    path: PATH,
    oom_score_adj: -999,
};

/// Its socket stands in the image's `daemon.json`. It needs no file with its process id: there is one
/// of it, and after a crash such a file could name a stranger and keep it from starting.
const DOCKERD: Daemon = Daemon {
    name: "dockerd",
    arguments: &["--pidfile="],
    path: DOCKERD_PATH,
    oom_score_adj: -500,
};

/// Brings the guest up and runs until something fails that cannot be mended.
///
/// # Errors
/// That something.
pub(crate) fn run() -> anyhow::Result<Infallible> {
    mounts::all()?;
    console::attach();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    identity::prepare()?;
    set_limits();
    for (name, value) in SYSCTLS {
        if let Err(error) = std::fs::write(Path::new("/proc/sys").join(name), value) {
            say!("sysctl {name}: {error}");
        }
    }
    // Two threads: one can encrypt while the other decrypts. They sleep when nothing happens.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(512 * 1024)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(serve());
    // What still runs must not keep the guest from ending.
    runtime.shutdown_background();
    outcome
}

async fn serve() -> anyhow::Result<Infallible> {
    let state = Arc::new(State::default());
    let (events, outbox) = mpsc::channel(MAX_EVENTS);
    let reaper = Reaper::start().context("cannot wait for children")?;
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("cannot read the boot id")?;

    let mut parts = JoinSet::new();
    parts.spawn(talk(
        Agent::new(
            Arc::clone(&state),
            boot_id.trim_end().to_owned(),
            Sshd::new(reaper.clone()).context("cannot prepare for SSH")?,
            events.clone(),
        ),
        outbox,
    ));
    oom::watch(events.clone()).context("cannot follow the kernel's log")?;
    net::loopback_up()?;
    load_modules(&reaper).await?;
    // Docker does without.
    if let Err(error) = binfmt::register() {
        say!("programs for other processors do not run: {error:#}");
    }
    // Nobody else sets it.
    let card = net::card_up()?;
    let _ = state.card.set(card);
    parts.spawn(keep_containerd(reaper.clone(), events.clone()));
    parts.spawn(keep_dockerd(
        reaper.clone(),
        events.clone(),
        Arc::clone(&state),
        card,
    ));
    tokio::spawn(async move {
        docker::first_answer().await;
        if state.phase.advance(Phase::Ready) {
            say!("docker answers");
            tell(&events, Event::Phase(Phase::Ready));
        }
    });
    // None of them ends but by failing.
    match parts.join_next().await {
        Some(Ok(Err(error))) => Err(error),
        Some(Err(error)) => bail!("a part of the agent ended: {error}"),
        None => bail!("the agent has no parts"),
        Some(Ok(Ok(never))) => match never {},
    }
}

async fn keep_containerd(
    reaper: Reaper,
    events: mpsc::Sender<Event>,
) -> anyhow::Result<Infallible> {
    let running = RunningPid::default();
    let exited = |status| tell_exit(&events, CONTAINERD.name, status);
    supervise::keep_running(CONTAINERD, reaper, &running, exited).await
}

/// Waits for the server to say what the site wants: the daemon reads most of it only when it starts.
async fn keep_dockerd(
    reaper: Reaper,
    events: mpsc::Sender<Event>,
    state: Arc<State>,
    card: Card,
) -> anyhow::Result<Infallible> {
    let mut prepared = state.prepared.subscribe();
    let fixed = prepared.wait_for(Option::is_some).await?.clone();
    if let Some(mtu) = fixed.and_then(|fixed| fixed.mtu) {
        net::set_mtu(card, mtu)?;
    }
    let running = Arc::clone(&state.dockerd);
    let exited = |status| {
        state.docker_restarts.fetch_add(1, Ordering::Relaxed);
        tell_exit(&events, DOCKERD.name, status);
    };
    supervise::keep_running(DOCKERD, reaper, &running, exited).await
}

fn tell_exit(events: &mpsc::Sender<Event>, daemon: &str, status: String) {
    tell(
        events,
        Event::DaemonExited {
            daemon: daemon.to_owned(),
            status,
        },
    );
}

async fn talk(mut agent: Agent, mut outbox: mpsc::Receiver<Event>) -> anyhow::Result<Infallible> {
    let mut port = Port::open(PORT_NAME)
        .await
        .context("cannot reach the server")?;
    channel::serve(&mut port, &mut agent, &mut outbox)
        .await
        .context("the channel to the server broke")
}

fn tell(events: &mpsc::Sender<Event>, event: Event) {
    if events.try_send(event).is_err() {
        say!("an event was lost: the server does not read");
    }
}

async fn load_modules(reaper: &Reaper) -> anyhow::Result<()> {
    let list =
        std::fs::read_to_string(MODULES).with_context(|| format!("cannot read {MODULES}"))?;
    let [command_line, cpuinfo] = ["/proc/cmdline", "/proc/cpuinfo"]
        .map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let kvm = kvm_module(&command_line, &cpuinfo);
    let child = reaper
        .spawn(
            Command::new("modprobe")
                .arg("-a")
                .args(module_names(&list))
                .args(kvm)
                .env("PATH", PATH)
                .stdin(Stdio::null()),
        )
        .context("cannot run modprobe")?;
    match tokio::time::timeout(MODULES_PATIENCE, child.exit()).await {
        Ok(Some(Exit::Code(0))) => {}
        // modprobe said which one; Docker may do without it.
        Ok(exit) => say!(
            "modprobe: {}",
            exit.map_or_else(|| "lost".into(), |exit| exit.to_string())
        ),
        Err(_) => say!("modprobe takes too long; going on"),
    }
    if kvm.is_some() {
        // For everybody, as elsewhere: this machine has one user.
        let open = Permissions::from_mode(0o666);
        if let Err(error) = std::fs::set_permissions(KVM, open) {
            say!("{KVM}: {error}");
        }
    }
    Ok(())
}

/// The module that makes `/dev/kvm`, if this guest is to run machines of its own and its processors can.
fn kvm_module(command_line: &str, cpuinfo: &str) -> Option<&'static str> {
    if !command_line.split_whitespace().any(|word| word == NESTED) {
        return None;
    }
    let flags = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags"))?;
    let has = |flag: &str| flags.split_whitespace().any(|it: &str| it == flag);
    let modules = [("vmx", "kvm_intel"), ("svm", "kvm_amd")];
    let found = modules.into_iter().find(|(flag, _)| has(flag));
    found.map(|(_, module)| module)
}

/// The format of `modules-load.d(5)`.
fn module_names(list: &str) -> impl Iterator<Item = &str> {
    list.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
}

fn set_limits() {
    let unlimited = libc::RLIM_INFINITY;
    let limits = [
        (Resource::RLIMIT_NOFILE, OPEN_FILES.0, OPEN_FILES.1),
        (Resource::RLIMIT_NPROC, unlimited, unlimited),
        (Resource::RLIMIT_CORE, 0, unlimited),
        (Resource::RLIMIT_MEMLOCK, unlimited, unlimited),
    ];
    for (resource, soft, hard) in limits {
        if let Err(error) = setrlimit(resource, soft, hard) {
            say!("{resource:?}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_of_its_own_take_a_word_of_the_server_and_a_processor_that_can() {
        let intel = "processor : 0\nflags\t\t: fpu vmx lm\n";
        let amd = "flags : fpu svm\n";
        let told = "quiet remote_docker.nested panic=-1";
        assert_eq!(kvm_module(told, intel), Some("kvm_intel"));
        assert_eq!(kvm_module(told, amd), Some("kvm_amd"));
        assert_eq!(kvm_module(told, "flags : fpu svmx\n"), None);
        assert_eq!(kvm_module("quiet remote_docker.nested2", intel), None);
    }

    #[test]
    fn comments_are_no_modules() {
        let list = "# for Docker\noverlay\n\n  veth \n; old style\nnf_tables\n";
        assert_eq!(
            module_names(list).collect::<Vec<_>>(),
            ["overlay", "veth", "nf_tables"]
        );
    }
}
