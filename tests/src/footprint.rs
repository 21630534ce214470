//! What a server takes of its host, seen from outside.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::Pid;

use crate::TestServer;

/// What is counted, in the order of [`Footprint`]'s numbers.
const NAMES: [&str; 6] = [
    "file descriptors",
    "threads",
    "taps and routes",
    "lines of packet filters",
    "files",
    "bytes on disk",
];

/// By how much each may grow and is yet none that grows for ever: connections to the database, four at
/// most with a thread and some files each, and threads that wait for libvirt are made when they are first
/// needed, which may be late.
const SLACK: [u64; NAMES.len()] = [12, 6, 0, 0, 0, 0];

/// What a server has on the host: open file descriptors, threads, taps and routes to machines, lines
/// of the packet filters, files and folders in the state folder, and the bytes that those take without
/// the database and the audit log, which keep what was.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint([u64; NAMES.len()]);

impl fmt::Debug for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(NAMES.iter().zip(&self.0)).finish()
    }
}

impl Footprint {
    /// What there is now.
    ///
    /// # Panics
    /// When the system cannot tell, or the server does not run.
    #[must_use]
    pub fn of(server: &TestServer) -> Self {
        let process = Path::new("/proc").join(server.pid().to_string());
        let count = |what: &str| {
            fs::read_dir(process.join(what))
                .expect("the server")
                .count()
        };
        let (mut files, mut bytes) = (0, 0);
        sum(&server.state(), &mut files, &mut bytes);
        let host = server.host();
        let counts = [
            count("fd"),
            count("task"),
            host.wires().len(),
            host.filter_lines(),
        ];
        let [descriptors, threads, wires, lines] = counts.map(|count| count as u64);
        Self([descriptors, threads, wires, lines, files, bytes])
    }

    /// The larger of each.
    #[must_use]
    pub fn most(self, other: Self) -> Self {
        let mut most = self.0;
        for (mine, theirs) in most.iter_mut().zip(other.0) {
            *mine = theirs.max(*mine);
        }
        Self(most)
    }

    /// What is more than before, and more than what is made once, in words.
    #[must_use]
    pub fn growth_since(self, before: Self) -> Vec<String> {
        let each = NAMES
            .iter()
            .zip(SLACK)
            .zip(before.0.into_iter().zip(self.0));
        each.filter(|((_, slack), (before, now))| *now > before + slack)
            .map(|((name, _), (before, now))| format!("{name}: {before} before, {now} now"))
            .collect()
    }
}

/// Memory that a process has for itself, in KiB: not what it maps of files.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn own_memory_kib(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the server");
    let line = status.lines().find_map(|it| it.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("the kernel's account of memory")
}

/// How many heaps a process has besides its first one. The C library makes them where addresses are multiples of
/// 64 MiB, and nothing else does.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn further_heaps(pid: Pid) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the server");
    maps.lines().filter(|line| is_further_heap(line)).count()
}

fn is_further_heap(line: &str) -> bool {
    let Some((start, rest)) = line.split_once('-') else {
        return false;
    };
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let aligned = u64::from_str_radix(start, 16).is_ok_and(|start| start % (64 << 20) == 0);
    aligned && fields.get(1) == Some(&"rw-p") && fields.len() == 5
}

/// Size of the server's database and of the journal of what is to be written into it, in bytes.
#[must_use]
pub fn database_bytes(state: &Path) -> (u64, u64) {
    let length = |name| fs::metadata(state.join(name)).map_or(0, |meta| meta.len());
    (length("state.db"), length("state.db-wal"))
}

/// Size of the server's audit log, in bytes.
#[must_use]
pub fn audit_bytes(state: &Path) -> u64 {
    fs::metadata(state.join(AUDIT_LOG)).map_or(0, |meta| meta.len())
}

/// Where the audit log is in the state folder.
const AUDIT_LOG: &str = "audit.jsonl";

/// What grows with every lease because it keeps what was.
fn is_history(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("state.db") || name == AUDIT_LOG
}

fn sum(folder: &Path, files: &mut u64, bytes: &mut u64) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = entry.metadata() else { continue };
        if is_history(&path) {
            continue;
        }
        *files += 1;
        *bytes += meta.blocks() * 512;
        if meta.is_dir() {
            sum(&path, files, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_grew_is_told() {
        let before = Footprint([10, 20, 0, 40, 50, 4096]);
        assert!(before.growth_since(before).is_empty());
        let less = Footprint([9, 19, 0, 39, 49, 0]);
        assert!(less.growth_since(before).is_empty());
        let pools = Footprint([22, 26, 0, 40, 50, 4096]);
        assert!(pools.growth_since(before).is_empty());
        let more = Footprint([23, 20, 1, 40, 50, 4096]);
        assert_eq!(
            more.growth_since(before),
            [
                "file descriptors: 10 before, 23 now",
                "taps and routes: 0 before, 1 now"
            ]
        );
        assert_eq!(less.most(more), Footprint([23, 20, 1, 40, 50, 4096]));
    }

    #[test]
    fn heaps_are_told_by_their_place() {
        assert!(is_further_heap(
            "7f1c60000000-7f1c60217000 rw-p 00000000 00:00 0 "
        ));
        for other in [
            "7f1c60217000-7f1c64000000 ---p 00000000 00:00 0 ",
            "7f1c60217000-7f1c64000000 rw-p 00000000 00:00 0 ",
            "7f1c60000000-7f1c60217000 rw-p 00000000 00:2a 17 /memfd:x",
            "",
        ] {
            assert!(!is_further_heap(other), "{other}");
        }
    }

    #[test]
    fn files_are_counted_without_what_keeps_what_was() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(state.path().join("vms")).unwrap();
        fs::write(state.path().join("vms/left"), [1; 5000]).unwrap();
        fs::write(state.path().join("state.db"), [1; 10_000]).unwrap();
        fs::write(state.path().join("state.db-wal"), [1; 100]).unwrap();
        fs::write(state.path().join("audit.jsonl"), [1; 200]).unwrap();
        let (mut files, mut bytes) = (0, 0);
        sum(state.path(), &mut files, &mut bytes);
        assert_eq!(files, 2);
        assert!(bytes >= 5000, "{bytes}");
        assert_eq!(database_bytes(state.path()), (10_000, 100));
        assert_eq!(audit_bytes(state.path()), 200);
    }

    #[test]
    fn memory_that_is_written_to_is_counted() {
        let before = own_memory_kib(Pid::this());
        let taken = std::hint::black_box(vec![1_u8; 32 << 20]);
        let after = own_memory_kib(Pid::this());
        assert!(after > before + 30_000, "{before} {after} {}", taken.len());
    }
}
