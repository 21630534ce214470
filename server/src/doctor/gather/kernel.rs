//! What the kernel tells about its clock, its locks and its routes.

use std::io;

/// Whether something keeps the kernel's clock right, and then how far off it may be all the same, in
/// milliseconds. Sets nothing.
pub(super) fn clock() -> Result<Option<i64>, String> {
    // SAFETY: `timex` is a plain C structure for which all zeros is a value: one that asks.
    let mut asked: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel reads and writes one `timex`, which outlives the call.
    let state = unsafe { libc::adjtimex(&mut asked) };
    match state {
        -1 => {
            let error = io::Error::last_os_error();
            Err(format!("the kernel does not tell about its clock: {error}"))
        }
        libc::TIME_ERROR => Ok(None),
        _ if asked.status & libc::STA_UNSYNC != 0 => Ok(None),
        _ => Ok(Some(asked.maxerror / 1000)),
    }
}

/// Whether somebody holds the file of this number for himself, by the text of `/proc/locks`. File systems are
/// not told apart: some show another number there than programs see.
pub(super) fn is_locked(locks: &str, inode: u64) -> bool {
    locks.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let file = words.get(5).and_then(|file| file.rsplit(':').next());
        words.get(1) == Some(&"FLOCK")
            && words.get(3) == Some(&"WRITE")
            && file.and_then(|number| number.parse().ok()) == Some(inode)
    })
}

/// The device of the best default route, by the text of `/proc/net/route`.
pub(super) fn way_out(routes: &str) -> Option<String> {
    let routes = routes.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [device, "00000000", _, _, _, _, metric, "00000000", ..] => {
                Some((metric.parse::<u32>().ok()?, device.to_owned()))
            }
            _ => None,
        }
    });
    routes.min().map(|(_, device)| device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lock_of_a_whole_file_by_one_alone_counts() {
        let locks = "1: POSIX  ADVISORY  WRITE 23185 fe:00:11 0 EOF\n\
                     2: FLOCK  ADVISORY  READ 23185 fe:00:12 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 23089 fe:00:13 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 23090 fe:00:14 0 EOF\nnonsense\n";
        let locked: Vec<u64> = (10..20).filter(|inode| is_locked(locks, *inode)).collect();
        assert_eq!(locked, [13]);
    }

    #[test]
    fn a_lock_that_is_held_shows() {
        use nix::fcntl::{Flock, FlockArg};
        use std::os::unix::fs::MetadataExt;
        let file = tempfile::tempfile().unwrap();
        let inode = file.metadata().unwrap().ino();
        let shows = || is_locked(&std::fs::read_to_string("/proc/locks").unwrap(), inode);
        assert!(!shows());
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
        assert!(shows());
        drop(held);
    }

    #[test]
    fn the_default_route_of_the_lowest_metric_leads_out() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                     wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
                     eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                     eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(way_out(table).as_deref(), Some("eth0"));
        assert_eq!(way_out("Iface\tDestination\n"), None);
    }

    #[test]
    fn the_clock_can_be_asked() {
        clock().unwrap();
    }
}
