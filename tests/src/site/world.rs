//! What lies behind the host of a test: one machine with a private address and a public one.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;

use crate::process::{bounded, succeed};

/// The host's own address towards it.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Its private address.
pub const LAN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Its public address. Whoever has it on the Internet never sees a packet of ours: the namespaces lead
/// nowhere else.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(93, 184, 100, 1);

const LIMIT: Duration = Duration::from_secs(60);

/// A network namespace, joined to that of the calling thread, which is the host's.
#[derive(Debug)]
pub struct World {
    /// Keeps the namespace there.
    holder: Child,
}

impl World {
    /// Makes it. To be called after the server's namespace was entered.
    ///
    /// # Panics
    /// When the system refuses.
    #[must_use]
    pub fn make() -> Self {
        let mut command = Command::new("sleep");
        command.arg("infinity").stdin(Stdio::null());
        // SAFETY: both are plain system calls, which may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)
            });
        }
        let world = Self {
            // Returns when the program runs, so the namespace is there.
            holder: command.spawn().expect("running sleep"),
        };
        let pid = world.holder.id().to_string();
        let ip = |arguments: &str| {
            succeed(bounded(LIMIT, "ip").args(arguments.split(' ')));
        };
        let inside = |arguments: &str| {
            let mut command = bounded(LIMIT, "nsenter");
            succeed(
                command
                    .args(["-t", &pid, "-n", "ip"])
                    .args(arguments.split(' ')),
            );
        };
        ip(&format!(
            "link add world type veth peer name host netns {pid}"
        ));
        ip(&format!("addr add {HOST}/24 dev world"));
        ip("link set world up");
        inside("link set lo up");
        inside(&format!("addr add {LAN}/24 dev host"));
        inside(&format!("addr add {PUBLIC}/32 dev lo"));
        inside("link set host up");
        ip(&format!("route add {PUBLIC}/32 via {LAN}"));
        world
    }

    /// Has a program run there.
    pub fn place(&self, command: &mut Command) {
        let namespace = self.namespace();
        // SAFETY: setns is a plain system call, which may be made between fork and exec.
        unsafe {
            command.pre_exec(move || Ok(setns(&namespace, CloneFlags::CLONE_NEWNET)?));
        }
    }

    /// Has the calling thread go there, for good.
    ///
    /// # Panics
    /// When the system refuses.
    pub(super) fn enter(namespace: &File) {
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("entering a namespace");
    }

    pub(super) fn namespace(&self) -> File {
        let path = format!("/proc/{}/ns/net", self.holder.id());
        File::open(path).expect("the namespace's file")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
