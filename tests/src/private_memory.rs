//! What the memory is for that a machine's QEMU has and nobody else.

use std::fs;

use nix::unistd::Pid;

/// Private memory by use, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrivateMemory {
    /// Pages of the guest's memory that are no longer those of its template.
    pub guest_kib: u64,
    /// Instructions of emulated processors, translated.
    pub translated_kib: u64,
    /// All else: what QEMU has of its own, what it keeps about the translated instructions among it.
    pub qemu_kib: u64,
}

impl PrivateMemory {
    /// That of a clone that runs.
    ///
    /// # Panics
    /// When there is no such process.
    #[must_use]
    pub fn of(machine: Pid) -> Self {
        let smaps = fs::read_to_string(format!("/proc/{machine}/smaps")).expect("a machine");
        Self::from_smaps(&smaps)
    }

    /// Sums up `/proc/PID/smaps` of a clone's QEMU.
    #[must_use]
    pub fn from_smaps(smaps: &str) -> Self {
        let mut sum = Self::default();
        let mut counter = Counter::Qemu;
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let Some(first) = words.next() else { continue };
            if !first.ends_with(':') {
                counter = Counter::of(words);
            } else if matches!(first, "Private_Clean:" | "Private_Dirty:") {
                let kib = words.next().and_then(|number| number.parse::<u64>().ok());
                *counter.of_sum(&mut sum) += kib.unwrap_or_default();
            }
        }
        sum
    }
}

/// Whose the mapping is that the lines are about.
#[derive(Clone, Copy)]
enum Counter {
    Guest,
    Translated,
    Qemu,
}

impl Counter {
    /// From what stands behind a mapping's addresses: permissions, offset, device, inode and perhaps a path.
    fn of<'l>(mut words: impl Iterator<Item = &'l str>) -> Self {
        let permissions = words.next().unwrap_or_default();
        match words.nth(3) {
            Some(path) if path.ends_with("/memory") => Self::Guest,
            // Only the translator writes what is then executed.
            None if permissions.starts_with("rwx") => Self::Translated,
            _ => Self::Qemu,
        }
    }

    fn of_sum(self, sum: &mut PrivateMemory) -> &mut u64 {
        match self {
            Self::Guest => &mut sum.guest_kib,
            Self::Translated => &mut sum.translated_kib,
            Self::Qemu => &mut sum.qemu_kib,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
555f99560000-555f9ae8f000 rw-p 00000000 00:00 0                          [heap]
Size:              21516 kB
Rss:                7268 kB
Private_Clean:         0 kB
Private_Dirty:      7268 kB
VmFlags: rd wr mr mw me ac sd
7f06c3dff000-7f0703dff000 rw-p 00000000 fe:00 419    /var/lib/remote-docker/templates/k/1/memory
Rss:              121132 kB
Shared_Clean:     106336 kB
Private_Clean:        80 kB
Private_Dirty:     14716 kB
7f0744000000-7f0747fff000 rwxp 00000000 00:00 0 
Private_Clean:         0 kB
Private_Dirty:     22528 kB
7f0748000000-7f074bfff000 rwxp 00000000 00:00 0
Private_Dirty:     34816 kB
7f0790000000-7f0790200000 r-xp 00000000 fe:00 77     /usr/lib/x86_64-linux-gnu/libc.so.6
Private_Clean:        12 kB
7f0790a00000-7f0790a01000 rw-p 00000000 00:00 0 
Private_Dirty:         4 kB
";

    #[test]
    fn every_mapping_counts_once_for_whoever_it_is() {
        let sum = PrivateMemory::from_smaps(SMAPS);
        assert_eq!(
            sum,
            PrivateMemory {
                guest_kib: 14_796,
                translated_kib: 57_344,
                qemu_kib: 7_284,
            }
        );
        assert_eq!(PrivateMemory::from_smaps(""), PrivateMemory::default());
    }
}
