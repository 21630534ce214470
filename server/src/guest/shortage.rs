//! What a guest says that it runs out of, in words for its holder. Pure; the names in it are the guest's and
//! may be anything.

use guest_protocol::{DiskUse, OutOfMemory, Scarce, Whose};
use remote_docker_api::EventKind;

use super::printable;

/// With so much it is not full at this moment: the guest tells of what a daemon found while nobody looked.
const FREE_AGAIN_MIB: u64 = 16;

/// That the disk is nearly full, or full.
#[must_use]
pub fn disk(usage: &DiskUse) -> (EventKind, String) {
    let DiskUse {
        full,
        scarce,
        used_percent,
        free_mib,
    } = *usage;
    let percent = used_percent.min(100);
    let text = match (full, scarce) {
        (false, Scarce::Space) => {
            format!("the machine's disk is {percent} % full, {free_mib} MiB are left")
        }
        (true, Scarce::Space) if free_mib >= FREE_AGAIN_MIB => {
            format!("Docker found no room on the machine's disk; {free_mib} MiB are free again")
        }
        (true, Scarce::Space) => format!("the machine's disk is full, {free_mib} MiB are left"),
        (false, Scarce::Files) => {
            format!("the machine's disk has room for few more files, {percent} % of them are there")
        }
        (true, Scarce::Files) => {
            format!("the machine's disk has room for no more files, though for {free_mib} MiB")
        }
    };
    let kind = if full {
        EventKind::DiskFull
    } else {
        EventKind::DiskLow
    };
    (kind, text)
}

/// That a process was ended for want of memory.
#[must_use]
pub fn memory(killed: &OutOfMemory) -> (EventKind, String) {
    let process = printable(&killed.process);
    let whose = match &killed.whose {
        Whose::Container(name) => format!(" in container \"{}\"", printable(name)),
        Whose::BuildStep => " in a step of a build".to_owned(),
        Whose::Machine => String::new(),
    };
    let why = match killed.limit_kib {
        Some(limit_kib) => format!("out of memory (limit {})", in_mib(limit_kib)),
        None => "the machine is out of memory".to_owned(),
    };
    let text = format!("\"{process}\"{whose} was killed: {why}");
    (EventKind::OutOfMemory, text)
}

/// Limits are set in MiB, mostly.
fn in_mib(kib: u64) -> String {
    if kib.is_multiple_of(1024) {
        format!("{} MiB", kib / 1024)
    } else {
        format!("{kib} KiB")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_out_is_told_in_words() {
        let usage = |full, scarce, used_percent, free_mib| {
            let usage = DiskUse {
                full,
                scarce,
                used_percent,
                free_mib,
            };
            disk(&usage)
        };
        insta::assert_snapshot!(
            [
                usage(false, Scarce::Space, 92, 1536),
                usage(true, Scarce::Space, 99, 12),
                usage(true, Scarce::Space, 50, 5120),
                usage(false, Scarce::Files, 255, 5),
                usage(true, Scarce::Files, 99, 7000),
            ]
            .map(|(kind, text)| format!("{}: {text}", kind.as_str()))
            .join("\n"),
            @r"
        disk_low: the machine's disk is 92 % full, 1536 MiB are left
        disk_full: the machine's disk is full, 12 MiB are left
        disk_full: Docker found no room on the machine's disk; 5120 MiB are free again
        disk_low: the machine's disk has room for few more files, 100 % of them are there
        disk_full: the machine's disk has room for no more files, though for 7000 MiB
        "
        );
        let killed = |whose, limit_kib| {
            let process = "cc1".to_owned();
            memory(&OutOfMemory {
                process,
                whose,
                limit_kib,
            })
            .1
        };
        insta::assert_snapshot!(
            [
                killed(Whose::Container("web".into()), Some(65_536)),
                killed(Whose::Container("web".into()), None),
                killed(Whose::BuildStep, Some(1000)),
                killed(Whose::Machine, None),
            ]
            .join("\n"),
            @r#"
        "cc1" in container "web" was killed: out of memory (limit 64 MiB)
        "cc1" in container "web" was killed: the machine is out of memory
        "cc1" in a step of a build was killed: out of memory (limit 1000 KiB)
        "cc1" was killed: the machine is out of memory
        "#
        );
    }

    #[test]
    fn names_of_a_guest_neither_drive_a_terminal_nor_fill_a_page() {
        let hostile = format!("\u{1b}[2J\n\u{202e}{}", "x".repeat(100_000));
        let (_, text) = memory(&OutOfMemory {
            process: hostile.clone(),
            whose: Whose::Container(hostile),
            limit_kib: Some(u64::MAX),
        });
        assert!(text.len() < 400, "{text}");
        assert!(!text.chars().any(remote_docker_api::is_dangerous), "{text}");
    }
}
