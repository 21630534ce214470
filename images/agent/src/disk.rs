//! Whether the file system on which Docker keeps everything is nearly full. A build that finds no room fails
//! with whatever words its tools have for it; this tells before, and tells it plainly. A build that fills it and has
//! what it wrote removed between two looks is seen by what the daemons log of it.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use guest_protocol::{DiskUse, Event, Scarce};
use nix::sys::statvfs::{Statvfs, statvfs};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use crate::console::say;

/// What is looked at.
const DOCKER: &str = "/var/lib/docker";

/// Pauses between two looks. The longest is for a machine with no clients, which is to stay asleep: there may be many
/// on a host.
const LONGEST: Duration = Duration::from_secs(16);
const LONGEST_IN_USE: Duration = Duration::from_secs(2);
const SHORTEST: Duration = Duration::from_millis(500);

/// What no disk takes in a second, in bytes.
const FASTEST: u64 = 1024 * MIB;
/// How many files no file system makes in a second.
const FASTEST_FILES: u64 = 100_000;

/// From here on it is nearly full, in percent.
const LOW_PERCENT: u8 = 90;
/// Under this it is not any more: a build that goes to and fro about one bound is told of once.
const FINE_PERCENT: u8 = 85;

/// With less than this left it is full: what one small layer takes, in bytes.
const FULL_BELOW_BYTES: u64 = 16 * MIB;
/// With less than so many files to come, likewise.
const FULL_BELOW_FILES: u64 = 64;

const MIB: u64 = 1024 * 1024;

/// Where the daemons keep what is on the disk that is looked at.
const FOLDERS: [&str; 2] = ["/var/lib/docker/", "/var/lib/containerd/"];

/// The system's words for it, as programs in Go have them.
const REFUSED: &str = "no space left on device";

/// How long what a daemon logs is not told again, at first: a client may try the same thing over and over. It is twice
/// as long after each time, so that there is room for other warnings of the lease.
const REFUSALS_APART: Duration = Duration::from_secs(60);

/// Wakes [`watch`]. One for the process: what is heard here is heard by whoever copies a daemon's log, long before
/// anybody watches.
static HEARD: Notify = Notify::const_new();

/// Wakes [`watch`] as well, which may have gone to sleep for long.
static USED: Notify = Notify::const_new();

/// Somebody comes to use the machine.
pub(crate) fn is_used() {
    USED.notify_one();
}

/// Takes note of a line that a daemon logs.
pub(crate) fn hear(line: &str) {
    if is_refusal(line) {
        HEARD.notify_one();
    }
}

/// Until a daemon has logged that there was no room.
pub(crate) async fn refused() {
    HEARD.notified().await;
}

/// Whether there was no room on this disk: a container may have small ones of its own, and the kernel says the same
/// of other things than disks.
fn is_refusal(line: &str) -> bool {
    line.contains(REFUSED) && FOLDERS.iter().any(|folder| line.contains(folder))
}

/// What a file system has, and what of it is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    bytes: Stock,
    files: Stock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stock {
    all: u64,
    left: u64,
}

impl Stock {
    /// Rounded down: nothing is called full that is not.
    fn used_percent(self) -> u8 {
        // Some file systems make files as they are needed, and have no number of them.
        let used = u128::from(self.all.saturating_sub(self.left)) * 100;
        let percent = used.checked_div(u128::from(self.all)).unwrap_or_default();
        u8::try_from(percent).unwrap_or(100)
    }
}

impl Room {
    fn of(about: &Statvfs) -> Self {
        // Not what is free: ext4 keeps some for itself, which not even root gets.
        let bytes = |blocks: u64| blocks.saturating_mul(about.fragment_size());
        Self {
            bytes: Stock {
                all: bytes(about.blocks()),
                left: bytes(about.blocks_available()),
            },
            files: Stock {
                all: about.files(),
                left: about.files_free(),
            },
        }
    }

    /// Until when nobody who writes can have filled it. Room can be taken without writing, and all at once, so while
    /// somebody uses the machine it is never long.
    fn pause(self, is_used: bool) -> Duration {
        let longest = if is_used { LONGEST_IN_USE } else { LONGEST };
        let mut seconds = self.bytes.left / FASTEST;
        // Some file systems make files as they are needed, and have no number of them.
        if self.files.all > 0 {
            seconds = seconds.min(self.files.left / FASTEST_FILES);
        }
        Duration::from_secs(seconds).clamp(SHORTEST, longest)
    }

    /// What is shorter, how short it is, and whether there is next to nothing left.
    fn usage(self) -> DiskUse {
        let (bytes, files) = (self.bytes.used_percent(), self.files.used_percent());
        let no_bytes = self.bytes.left < FULL_BELOW_BYTES;
        let no_files = self.files.all > 0 && self.files.left < FULL_BELOW_FILES;
        let (scarce, used_percent) = if !no_bytes && (no_files || files > bytes) {
            (Scarce::Files, files)
        } else {
            (Scarce::Space, bytes)
        };
        DiskUse {
            full: no_bytes || no_files,
            scarce,
            used_percent,
            free_mib: self.bytes.left / MIB,
        }
    }
}

/// What was told last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    #[default]
    Fine,
    Low,
    Full,
}

impl Told {
    /// What is to have been told once it is so: the worst since it was fine.
    fn after(self, usage: DiskUse) -> Self {
        match usage.used_percent {
            _ if usage.full => Self::Full,
            LOW_PERCENT.. => self.max(Self::Low),
            FINE_PERCENT.. => self,
            _ => Self::Fine,
        }
    }

    /// Tells of this if it is worse than what was told since it was fine. Whether nothing is left to tell: what
    /// could not be told counts as not told, so that the next look tells it if it still is so.
    fn take(&mut self, usage: DiskUse, tell: impl FnOnce(DiskUse) -> bool) -> bool {
        let next = self.after(usage);
        let done = next <= *self || tell(usage);
        if done {
            *self = next;
        }
        done
    }
}

/// What a daemon found while nobody looked.
#[derive(Debug, Default)]
struct Refusal {
    /// It is still to be told.
    is_open: bool,
    /// When it was told last, and how long it is not told from then on.
    told: Option<(Instant, Duration)>,
}

impl Refusal {
    fn heard(&mut self, now: Instant) {
        let is_news = |(at, apart)| now.saturating_duration_since(at) >= apart;
        self.is_open = self.is_open || self.told.is_none_or(is_news);
    }

    /// What there is to tell: what is seen now, or what was so a moment ago.
    fn over(&self, seen: DiskUse) -> DiskUse {
        if !self.is_open || seen.full {
            return seen;
        }
        DiskUse { full: true, ..seen }
    }

    fn told(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_open) {
            let apart = self
                .told
                .map_or(REFUSALS_APART, |(_, apart)| apart.saturating_mul(2));
            self.told = Some((now, apart));
        }
    }
}

/// Tells when it is nearly full, and when it is full. `is_used` tells whether anybody uses the machine. Never returns.
pub(crate) async fn watch(
    events: mpsc::Sender<Event>,
    is_used: impl Fn() -> bool + Send,
) -> Infallible {
    let mut told = Told::default();
    let mut refusal = Refusal::default();
    let mut done = true;
    let mut pause = SHORTEST;
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            () = refused() => refusal.heard(Instant::now()),
            () = USED.notified(), if pause > LONGEST_IN_USE => {}
        }
        // What cannot be looked at is not full as far as anybody knows.
        let Ok(about) = statvfs(DOCKER) else { continue };
        let room = Room::of(&about);
        pause = room.pause(is_used());
        let usage = refusal.over(room.usage());
        let now = told.take(usage, |usage| events.try_send(Event::Disk(usage)).is_ok());
        if now {
            refusal.told(Instant::now());
        }
        // It is tried again at each look, and said here once.
        if std::mem::replace(&mut done, now) && !now {
            say!(
                "the disk is {} % full, and the server does not read",
                usage.used_percent
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1024 * MIB;

    fn room(bytes_left: u64, files_left: u64) -> Room {
        Room {
            bytes: Stock {
                all: 10 * GIB,
                left: bytes_left,
            },
            files: Stock {
                all: 100_000,
                left: files_left,
            },
        }
    }

    fn told(room: Room, told: &mut Told) -> Option<(bool, Scarce, u8)> {
        let mut words = None;
        let done = told.take(room.usage(), |usage| {
            words = Some((usage.full, usage.scarce, usage.used_percent));
            true
        });
        assert!(done);
        words
    }

    #[test]
    fn it_is_told_once_that_it_is_low_and_once_that_it_is_full() {
        let mut state = Told::default();
        let mut next = |left| told(room(left, 90_000), &mut state);
        assert_eq!(next(9 * GIB), None);
        assert_eq!(next(11 * GIB / 10), None);
        assert_eq!(next(GIB), Some((false, Scarce::Space, 90)));
        assert_eq!(next(GIB / 2), None);
        assert_eq!(next(FULL_BELOW_BYTES), None);
        assert_eq!(next(FULL_BELOW_BYTES - 1), Some((true, Scarce::Space, 99)));
        assert_eq!(next(0), None);
        // A build that cleans up and comes back, not by much.
        assert_eq!(next(14 * GIB / 10), None);
        assert_eq!(next(0), None);
        // It was fine in between.
        assert_eq!(next(16 * GIB / 10), None);
        assert_eq!(next(0), Some((true, Scarce::Space, 100)));
        assert_eq!(next(GIB), None);
    }

    #[test]
    fn what_could_not_be_told_is_told_later_if_it_is_still_so() {
        let mut state = Told::default();
        let (fine, low, full) = (room(9 * GIB, 90_000), room(GIB, 90_000), room(0, 90_000));
        let unheard = |room: Room, state: &mut Told| !state.take(room.usage(), |_| false);
        assert!(unheard(low, &mut state));
        assert!(unheard(low, &mut state));
        assert_eq!(told(low, &mut state), Some((false, Scarce::Space, 90)));
        // What was told before stays told.
        assert!(unheard(full, &mut state));
        assert_eq!(told(low, &mut state), None);
        assert_eq!(told(full, &mut state), Some((true, Scarce::Space, 100)));
        // That it is fine again needs no hearing, and then nothing is left of what was not told.
        assert!(!unheard(fine, &mut state));
        assert!(unheard(low, &mut state));
        assert_eq!(told(fine, &mut state), None);
        assert_eq!(told(low, &mut state), Some((false, Scarce::Space, 90)));
    }

    #[test]
    fn a_daemon_that_found_no_room_is_believed_though_there_is_some_again() {
        let (mut state, mut refusal) = (Told::default(), Refusal::default());
        let start = Instant::now();
        let mut look = |heard: bool, after_s: u64, is_read: bool| {
            let now = start + Duration::from_secs(after_s);
            if heard {
                refusal.heard(now);
            }
            let mut words = None;
            let seen = refusal.over(room(5 * GIB, 90_000).usage());
            let done = state.take(seen, |usage| {
                words = Some((usage.full, usage.used_percent, usage.free_mib));
                is_read
            });
            if done {
                refusal.told(now);
            }
            words
        };
        let full = Some((true, 50, 5 * 1024));
        assert_eq!(look(false, 0, true), None);
        // Nobody reads, so it is told at the next look.
        assert_eq!(look(true, 1, false), full);
        assert_eq!(look(false, 2, true), full);
        assert_eq!(look(false, 3, true), None);
        // Again and again, and told once in a while.
        assert_eq!(look(true, 4, true), None);
        assert_eq!(look(true, 61, true), None);
        assert_eq!(look(true, 62, true), full);
        // And more and more seldom.
        assert_eq!(look(true, 150, true), None);
        assert_eq!(look(true, 182, true), full);
        assert_eq!(look(false, 900, true), None);
    }

    #[test]
    fn what_is_seen_to_be_full_is_told_as_it_is_seen() {
        let mut refusal = Refusal::default();
        refusal.heard(Instant::now());
        let seen = room(5 * MIB, 90_000).usage();
        assert_eq!(refusal.over(seen), seen);
        // Files were what was scarce: there may be room for bytes.
        let seen = room(5 * GIB, 1_000).usage();
        let told = refusal.over(seen);
        assert_eq!((told.full, told.scarce), (true, Scarce::Files));
        assert_eq!(told.free_mib, seen.free_mib);
    }

    #[test]
    fn only_this_disk_is_meant() {
        let line = |path: &str| {
            format!("time=\"x\" level=error msg=\"write {path}: no space left on device\"")
        };
        for path in [
            "/var/lib/docker/tmp/docker-import-1",
            "/var/lib/containerd/io.containerd.content.v1.content/ingest/1/data",
        ] {
            assert!(is_refusal(&line(path)), "{path}");
        }
        for path in ["/dev/shm/x", "/tmp/x", ""] {
            assert!(!is_refusal(&line(path)), "{path}");
        }
        assert!(!is_refusal("write /var/lib/docker/x: permission denied"));
    }

    #[test]
    fn the_emptier_the_disk_the_longer_the_pause() {
        let pause = |left, files| room(left, files).pause(false);
        assert_eq!(pause(40 * GIB, 9_000_000), LONGEST);
        assert_eq!(pause(3 * GIB + 5, 9_000_000), Duration::from_secs(3));
        assert_eq!(pause(GIB / 2, 9_000_000), SHORTEST);
        assert_eq!(pause(40 * GIB, 299_999), Duration::from_secs(2));
        assert_eq!(pause(40 * GIB, 15_000), SHORTEST);
        let uncounted = Room {
            files: Stock { all: 0, left: 0 },
            ..room(40 * GIB, 0)
        };
        assert_eq!(uncounted.pause(false), LONGEST);
        assert_eq!(uncounted.pause(true), LONGEST_IN_USE);
        assert_eq!(room(GIB / 2, 9_000_000).pause(true), SHORTEST);
    }

    #[test]
    fn many_small_files_fill_it_as_well() {
        let mut state = Told::default();
        let mut next = |left| told(room(5 * GIB, left), &mut state);
        assert_eq!(next(11_000), None);
        assert_eq!(next(5_000), Some((false, Scarce::Files, 95)));
        assert_eq!(next(FULL_BELOW_FILES - 1), Some((true, Scarce::Files, 99)));
        // What has no number of files never runs out of them.
        let uncounted = Room {
            files: Stock { all: 0, left: 0 },
            ..room(5 * GIB, 0)
        };
        assert_eq!(told(uncounted, &mut Told::default()), None);
    }

    #[test]
    fn a_file_system_can_be_looked_at() {
        let room = Room::of(&statvfs("/").unwrap());
        assert!(
            room.bytes.all > 0 && room.bytes.left <= room.bytes.all,
            "{room:?}"
        );
    }
}
