//! The kernel's log: what of it the kernel itself wrote, and one line of that, that the random number
//! generator was reseeded because this machine is a copy.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often the log is looked at while the line is waited for. It is written while the clone
/// resumes, so it mostly is there at the first look.
const POLL: Duration = Duration::from_millis(2);

/// What `drivers/char/random.c` says when the VM generation id changed.
const RESEEDED: &str = "crng reseeded due to virtual machine fork";

/// A place in the kernel's log.
pub(crate) struct Mark {
    log: File,
    /// The line was read already; a reading place does not go back.
    seen: bool,
}

impl Mark {
    /// The present end of the log.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn now() -> io::Result<Self> {
        let mut log = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")?;
        log.seek(SeekFrom::End(0))?;
        Ok(Self { log, seen: false })
    }

    /// Whether the kernel said after this mark that it reseeded. Waits up to `patience` for it.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(crate) async fn reseeded(&mut self, patience: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + patience;
        loop {
            self.seen = self.seen || self.line_is_there()?;
            if self.seen || Instant::now() >= deadline {
                return Ok(self.seen);
            }
            sleep(POLL).await;
        }
    }

    /// Reads to the end, or to the line.
    fn line_is_there(&mut self) -> io::Result<bool> {
        // One read gives one record; none is longer.
        let mut record = [0; 8192];
        loop {
            match self.log.read(&mut record) {
                Ok(length) if is_reseed_record(&record[..length]) => return Ok(true),
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(false),
                    // Records were overwritten before they were read: go on with the oldest left.
                    ErrorKind::BrokenPipe | ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
    }
}

/// The text of a record of `/dev/kmsg` (`priority,number,time,flags;text`) if the kernel wrote it. Programs
/// can write to the log as well, but the kernel never lets them use its own facility, which is 0: the
/// priority of its records is below 8.
pub(crate) fn of_the_kernel(record: &[u8]) -> Option<Cow<'_, str>> {
    let semicolon = record.iter().position(|&byte| byte == b';')?;
    let (header, text) = (&record[..semicolon], &record[semicolon + 1..]);
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    matches!(header, [b'0'..=b'7', b',', ..]).then(|| String::from_utf8_lossy(line))
}

/// Whether a record is the line.
fn is_reseed_record(record: &[u8]) -> bool {
    of_the_kernel(record)
        .is_some_and(|line| line.strip_prefix("random: ").unwrap_or(&line) == RESEEDED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_counts_only_when_the_kernel_wrote_it() {
        let yes: [&[u8]; 2] = [
            b"5,612,81234567,-;random: crng reseeded due to virtual machine fork\n",
            b"5,612,81234567,-;random: crng reseeded due to virtual machine fork\n SUBSYSTEM=acpi\n",
        ];
        let no: [&[u8]; 6] = [
            b"",
            b"5,612,81234567,-",
            b"13,612,81234567,-;random: crng reseeded due to virtual machine fork\n",
            b"5,612,81234567,-;random: crng init done\n",
            b"5,612,81234567,-;x random: crng reseeded due to virtual machine fork\n",
            b"5,612,81234567,-;other\n TEXT=random: crng reseeded due to virtual machine fork\n",
        ];
        for record in yes {
            assert!(
                is_reseed_record(record),
                "{}",
                String::from_utf8_lossy(record)
            );
        }
        for record in no {
            assert!(
                !is_reseed_record(record),
                "{}",
                String::from_utf8_lossy(record)
            );
        }
    }
}
