//! What a test's server has on the host, seen from outside: by the kernel's lists and by the
//! database's own shell, never by asking the server.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{bounded, run, succeed, text};

const LIMIT: Duration = Duration::from_secs(60);

/// The host as far as one state folder goes.
#[derive(Debug, Clone)]
pub struct Host {
    state: PathBuf,
}

impl Host {
    /// The view on what belongs to the server of this state folder.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self {
            state: state.to_owned(),
        }
    }

    /// QEMU processes of this server.
    #[must_use]
    pub fn machines(&self) -> Vec<Pid> {
        let state = self.state.to_string_lossy().into_owned();
        processes()
            .filter(|pid| {
                let of = |what| fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
                let is_qemu = String::from_utf8_lossy(&of("comm")).starts_with("qemu-system");
                is_qemu && String::from_utf8_lossy(&of("cmdline")).contains(&state)
            })
            .collect()
    }

    /// Name of the network namespace of this server, whether it is there or not.
    #[must_use]
    pub fn namespace(&self) -> Option<String> {
        let id = self.sql("SELECT value FROM meta WHERE name = 'install_id'");
        id.strip_prefix("in-").map(|code| format!("rd-{code}"))
    }

    /// Taps and routes to guests, or none without a namespace.
    #[must_use]
    pub fn wires(&self) -> Vec<String> {
        let taps = self.inside(&["ip", "-o", "link", "show"]);
        let routes = self.inside(&["ip", "route", "show"]);
        taps.lines()
            .chain(routes.lines())
            .filter(|line| line.split([' ', ':']).any(is_tap))
            .map(str::to_owned)
            .collect()
    }

    /// Lines of the packet filters in the machines' namespace and in this thread's.
    #[must_use]
    pub fn filter_lines(&self) -> usize {
        let list = ["nft", "list", "ruleset"];
        let own = succeed(bounded(LIMIT, list[0]).args(&list[1..]));
        own.lines().count() + self.inside(&list).lines().count()
    }

    /// What a command says in the machines' namespace; nothing if there is none.
    fn inside(&self, command: &[&str]) -> String {
        let path = self
            .namespace()
            .map(|name| Path::new("/run/netns").join(name));
        let Some(path) = path.filter(|path| path.exists()) else {
            return String::new();
        };
        let mut enter = bounded(LIMIT, "nsenter");
        succeed(enter.arg(format!("--net={}", path.display())).args(command))
    }

    /// TCP ports on which somebody listens in this thread's network namespace.
    #[must_use]
    pub fn listening(&self) -> BTreeSet<u16> {
        succeed(bounded(LIMIT, "ss").args(["-H", "-t", "-l", "-n"]))
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3))
            .filter_map(|address| address.rsplit(':').next()?.parse().ok())
            .collect()
    }

    /// Rows of VMs and leases that are not over.
    #[must_use]
    pub fn live_rows(&self) -> Vec<String> {
        let rows = self.sql(
            "SELECT id, state FROM vms WHERE state <> 'gone' \
             UNION ALL SELECT id, state FROM leases WHERE state <> 'ended'",
        );
        rows.lines().map(str::to_owned).collect()
    }

    /// Files and folders that belong to VMs: everything in the state folder whose path names one.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.state, &mut |path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.contains("vm-") {
                found.push(path.display().to_string());
            }
        });
        found.sort();
        found
    }

    /// Control groups of machines, in all hierarchies.
    #[must_use]
    pub fn groups(&self) -> Vec<PathBuf> {
        let id = self.sql("SELECT value FROM meta WHERE name = 'install_id'");
        if id.is_empty() {
            return Vec::new();
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let is_one = |line: &&str| line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
        let roots = mounts.lines().filter(is_one);
        let roots = roots.filter_map(|line| line.split(' ').nth(4));
        let own = roots.map(|root| Path::new(root).join("remote-dockerd").join(&id));
        let entries = own.flat_map(|folder| fs::read_dir(folder).into_iter().flatten());
        let groups = entries.flatten().map(|entry| entry.path());
        groups.filter(|path| path.is_dir()).collect()
    }

    /// Everything of VMs that is left, in words; empty is clean.
    #[must_use]
    pub fn remnants(&self) -> Vec<String> {
        let machines = self.machines();
        let machines = machines.iter().map(|pid| format!("process {pid}"));
        let wires = self.wires().into_iter().map(|wire| format!("wire {wire}"));
        let rows = self.live_rows().into_iter().map(|row| format!("row {row}"));
        let files = self.files().into_iter().map(|file| format!("file {file}"));
        let groups = self.groups();
        let groups = groups
            .iter()
            .map(|it| format!("control group {}", it.display()));
        let all = machines.chain(wires).chain(rows).chain(files);
        all.chain(groups).collect()
    }

    /// Asks the server's database.
    ///
    /// # Panics
    /// When it is there and the question fails.
    #[must_use]
    pub fn sql(&self, question: &str) -> String {
        let database = self.state.join("state.db");
        if !database.exists() {
            return String::new();
        }
        // Another writer may hold it for a moment.
        let mut command = bounded(LIMIT, "sqlite3");
        command.args(["-readonly", "-cmd", ".timeout 5000"]);
        let output = run(command.arg(&database).arg(question));
        // A server that died while it made the database leaves one without tables.
        if !output.status.success() {
            let said = text(&output.stderr);
            assert!(said.contains("no such table"), "{question}: {said}");
        }
        text(&output.stdout)
    }

    /// Takes everything of this server away by force: machines, namespace, and the mounts in its
    /// folder. For tests that failed.
    pub fn sweep(&self) {
        for _ in 0..50 {
            let machines = self.machines();
            if machines.is_empty() {
                break;
            }
            for pid in machines {
                let _ = kill(pid, Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        for group in self.groups() {
            // A process that was killed is in it until it has given its memory back.
            let mut tries = 0..50;
            while fs::remove_dir(&group).is_err() && tries.next().is_some() {
                std::thread::sleep(Duration::from_millis(100));
            }
            let _ = group.parent().map(fs::remove_dir);
        }
        if let Some(path) = self
            .namespace()
            .map(|name| Path::new("/run/netns").join(name))
            && path.exists()
        {
            let _ = nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH);
            let _ = fs::remove_file(&path);
        }
    }
}

fn is_tap(word: &str) -> bool {
    word.len() == 15 && word.starts_with("rd")
}

/// All processes there are.
pub(crate) fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        visit(&path);
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, visit);
        }
    }
}
