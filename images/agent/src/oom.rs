//! Which processes the kernel ended because there was no memory left for them: it says so in its log, in a
//! few lines that come one right after the other.
//!
//! ```text
//! memory: usage 65536kB, limit 65536kB, failcnt 41
//! oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=/docker/<id>,task_memcg=/docker/<id>,task=web,pid=7,uid=0
//! ```

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use guest_protocol::{Event, MAX_NAME_BYTES, OutOfMemory, Whose};
use tokio::sync::mpsc;

use crate::cgroups::{BUILDKIT, DOCKER};
use crate::console::say;
use crate::{cut, kmsg};

/// Where Docker describes its containers.
const CONTAINERS: &str = "/var/lib/docker/containers";

/// Longest description of a container that is read, in bytes; one has a few thousand.
const MAX_DESCRIPTION_BYTES: u64 = 1024 * 1024;

/// As much of an id as people are shown.
const SHORT_ID: usize = 12;

/// So many are told at once, and one more after each pause: a container that is ended and started again
/// all the time is told of as such.
const BURST: u32 = 8;
const PAUSE: Duration = Duration::from_secs(10);

/// What the kernel's log says of one process.
#[derive(Debug, PartialEq, Eq)]
struct Kill {
    process: String,
    /// Its control group.
    group: String,
    /// See [`OutOfMemory::limit_kib`].
    limit_kib: Option<u64>,
}

/// Puts the lines together.
#[derive(Debug, Default)]
struct Reader {
    /// From the lines that are about what is short.
    limit_kib: Option<u64>,
}

impl Reader {
    /// Takes in a line that the kernel wrote.
    fn line(&mut self, text: &str) -> Option<Kill> {
        if let Some(rest) = text.strip_prefix("memory: usage ") {
            let limit = rest.split_once("limit ").map(|(_, limit)| limit);
            let limit = limit.and_then(|limit| limit.split_once("kB")?.0.parse().ok());
            self.limit_kib = limit;
            return None;
        }
        let rest = text.strip_prefix("oom-kill:")?;
        let limit_kib = self.limit_kib.take();
        // Behind what somebody else chose, names of groups and processes, nothing is looked for that a name
        // could contain.
        let (rest, _uid) = rest.rsplit_once(",uid=")?;
        let (rest, _pid) = rest.rsplit_once(",pid=")?;
        let (place, rest) = rest.split_once(",task_memcg=")?;
        let (group, process) = rest.split_once(",task=")?;
        Some(Kill {
            process: process.to_owned(),
            group: group.to_owned(),
            limit_kib: limit_kib.filter(|_| place.contains("constraint=CONSTRAINT_MEMCG")),
        })
    }
}

/// To what a process in this control group belongs; `name` tells what a container is called.
fn whose(group: &str, name: impl FnOnce(&str) -> Option<String>) -> Whose {
    let parts: Vec<&str> = group.split('/').filter(|part| !part.is_empty()).collect();
    if parts.starts_with(&[DOCKER, BUILDKIT]) {
        return Whose::BuildStep;
    }
    // Whatever its parent is: a container may have groups of its own below it.
    match parts.into_iter().find(|part| is_id(part)) {
        Some(id) => Whose::Container(name(id).unwrap_or_else(|| id[..SHORT_ID].to_owned())),
        None => Whose::Machine,
    }
}

fn is_id(part: &str) -> bool {
    part.len() == 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What Docker calls the container of this id. Its description goes with it, so it is read at once.
fn name(containers: &Path, id: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Description {
        name: String,
    }
    // Whoever has the machine may have put a pipe in its place, and the thread would wait for a writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(containers.join(id).join("config.v2.json"))
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(MAX_DESCRIPTION_BYTES)
        .read_to_end(&mut text)
        .ok()?;
    let Description { name } = serde_json::from_slice(&text).ok()?;
    Some(name.trim_start_matches('/').to_owned()).filter(|name| !name.is_empty())
}

fn event(kill: Kill, containers: &Path) -> Event {
    let mut whose = whose(&kill.group, |id| name(containers, id));
    if let Whose::Container(name) = &mut whose {
        cut(name, MAX_NAME_BYTES);
    }
    let mut process = kill.process;
    cut(&mut process, MAX_NAME_BYTES);
    Event::OutOfMemory(OutOfMemory {
        process,
        whose,
        limit_kib: kill.limit_kib,
    })
}

/// How many may be told.
#[derive(Debug)]
struct Budget {
    left: u32,
    since: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        while self.left < BURST && now.duration_since(self.since) >= PAUSE {
            self.left += 1;
            self.since += PAUSE;
        }
        if self.left == BURST {
            self.since = now;
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

/// Begins to tell, on a thread that sleeps until the kernel says something.
///
/// # Errors
/// No log or no thread to be had.
pub(crate) fn watch(events: mpsc::Sender<Event>) -> io::Result<()> {
    let mut log = OpenOptions::new().read(true).open("/dev/kmsg")?;
    log.seek(SeekFrom::End(0))?;
    std::thread::Builder::new()
        .name("oom".to_owned())
        .stack_size(64 * 1024)
        .spawn(move || {
            if let Err(error) = follow(log, &events) {
                say!("what runs out of memory is not told: {error}");
            }
        })?;
    Ok(())
}

fn follow(mut log: impl Read, events: &mpsc::Sender<Event>) -> io::Result<()> {
    let mut reader = Reader::default();
    let mut budget = Budget::new(Instant::now());
    // One read gives one record; none is longer.
    let mut record = vec![0; 8192];
    loop {
        let length = match log.read(&mut record) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // Records were overwritten before they were read: go on with the oldest left, which need not
            // belong to those before.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                reader = Reader::default();
                continue;
            }
            Err(error) => return Err(error),
        };
        let kill = kmsg::of_the_kernel(&record[..length]).and_then(|text| reader.line(&text));
        let Some(kill) = kill else { continue };
        // A server that does not read finds it in the log.
        if budget.take(Instant::now()) {
            let _ = events.try_send(event(kill, Path::new(CONTAINERS)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945";

    fn read(lines: &[&str]) -> Vec<Kill> {
        let mut reader = Reader::default();
        lines.iter().filter_map(|line| reader.line(line)).collect()
    }

    #[test]
    fn a_kill_is_read_with_the_limit_that_was_reached() {
        let group = format!("/docker/{ID}");
        let kill = format!(
            "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset={ID},mems_allowed=0,oom_memcg={group},task_memcg={group},task=a,pid=1,uid=2,pid=431,uid=0"
        );
        let lines = [
            "sh invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
            "memory: usage 65536kB, limit 65536kB, failcnt 41",
            "swap: usage 0kB, limit 0kB, failcnt 0",
            &kill,
            "Memory cgroup out of memory: Killed process 431 (a) total-vm:1kB",
            // The next one is the whole machine's, which has no limit to tell.
            "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/,task=dockerd,pid=9,uid=0",
        ];
        let kills = read(&lines);
        // The name that a process gives itself may look like anything.
        let kill = |process: &str, group: &str, limit_kib| Kill {
            process: process.to_owned(),
            group: group.to_owned(),
            limit_kib,
        };
        assert_eq!(
            kills,
            [
                kill("a,pid=1,uid=2", &group, Some(65_536)),
                kill("dockerd", "/", None)
            ]
        );
        for rubbish in [
            "",
            "oom-kill:",
            "oom-kill:,task_memcg=,task=,pid=",
            "oom-kill:,uid=,pid=,task=",
        ] {
            assert_eq!(read(&[rubbish]), [], "{rubbish}");
        }
    }

    #[test]
    fn a_container_is_called_by_its_name_and_without_one_by_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let of = |group: &str| whose(group, |id| name(folder.path(), id));
        let container = |name: &str| Whose::Container(name.to_owned());
        let group = format!("/docker/{ID}");
        assert_eq!(of(&group), container("4f53cda18c2b"));
        std::fs::create_dir(folder.path().join(ID)).unwrap();
        let describe = |text: &str| {
            std::fs::write(folder.path().join(ID).join("config.v2.json"), text).unwrap();
        };
        describe("{");
        assert_eq!(of(&group), container("4f53cda18c2b"));
        describe(r#"{"ID":"x","Name":"/web","State":{}}"#);
        assert_eq!(of(&group), container("web"));
        assert_eq!(of(&format!("/my/parent/{ID}/init")), container("web"));
        assert_eq!(of("/docker/buildkit/abc"), Whose::BuildStep);
        assert_eq!(of(&format!("/docker/buildkit/{ID}")), Whose::BuildStep);
        for other in ["/", "/docker", "/docker/../../etc", "", &format!("/{ID}0")] {
            assert_eq!(of(other), Whose::Machine, "{other}");
        }
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join(ID);
        std::fs::create_dir(&place).unwrap();
        let mode = nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR;
        nix::unistd::mkfifo(&place.join("config.v2.json"), mode).unwrap();
        assert_eq!(name(folder.path(), ID), None);
    }

    #[test]
    fn names_have_an_end() {
        let kill = Kill {
            process: "ä".repeat(1000),
            group: format!("/docker/{ID}"),
            limit_kib: None,
        };
        let folder = tempfile::tempdir().unwrap();
        let Event::OutOfMemory(told) = event(kill, folder.path()) else {
            panic!("no kill");
        };
        assert_eq!(told.process.len(), MAX_NAME_BYTES);
    }

    #[test]
    fn what_is_ended_all_the_time_is_told_of_now_and_then() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut told = |after: Duration| (0..100).filter(|_| budget.take(start + after)).count();
        assert_eq!(told(Duration::ZERO), 8);
        assert_eq!(told(PAUSE / 2), 0);
        assert_eq!(told(PAUSE), 1);
        assert_eq!(told(3 * PAUSE), 2);
        assert_eq!(told(1000 * PAUSE), 8);
    }

    #[test]
    fn only_what_the_kernel_itself_says_counts() {
        let kill = "oom-kill:constraint=CONSTRAINT_NONE,global_oom,task_memcg=/,task=a,pid=9,uid=0";
        let (events, mut told) = mpsc::channel(9);
        for priority in [6, 14] {
            let record = format!("{priority},1,1,-;{kill}\n SUBSYSTEM=x\n");
            follow(record.as_bytes(), &events).unwrap();
        }
        assert!(matches!(told.try_recv(), Ok(Event::OutOfMemory(_))));
        assert!(told.try_recv().is_err());
    }

    /// A log of these records, with what goes wrong in between.
    struct Log(std::vec::IntoIter<Result<&'static str, ErrorKind>>);

    impl Read for Log {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some(record) = self.0.next().transpose()? else {
                return Ok(0);
            };
            buffer[..record.len()].copy_from_slice(record.as_bytes());
            Ok(record.len())
        }
    }

    #[test]
    fn a_limit_is_not_taken_for_that_of_a_kill_on_the_other_side_of_a_gap() {
        let limit_told_after = |what| {
            let records = vec![
                Ok("6,1,1,-;memory: usage 65536kB, limit 65536kB, failcnt 41\n"),
                Err(what),
                Ok(
                    "6,9,1,-;oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/a,task_memcg=/a,task=a,pid=9,uid=0\n",
                ),
            ];
            let (events, mut told) = mpsc::channel(9);
            follow(Log(records.into_iter()), &events).unwrap();
            let Ok(Event::OutOfMemory(killed)) = told.try_recv() else {
                panic!("no kill");
            };
            killed.limit_kib
        };
        assert_eq!(limit_told_after(ErrorKind::Interrupted), Some(65_536));
        assert_eq!(limit_told_after(ErrorKind::BrokenPipe), None);
    }
}
