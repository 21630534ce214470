//! The C library's heaps, which libvirt and everything else in this process share: what is taken from them, how much
//! of it stays with threads, and that what nobody uses goes back to the system.

use std::env;
use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;

/// How many heaps the C library may make.
const HEAPS: i32 = 2;

/// Where the C library reads its settings when a program starts, and only then.
const SETTINGS: &str = "GLIBC_TUNABLES";

/// What a thread keeps for itself of what it gave back: pieces of up to so many bytes, where up to a kilobyte is usual.
const LITTLE: &str = "glibc.malloc.tcache_max=128";

/// Says that this was done, whatever became of the setting: the loader takes it away where it trusts nobody.
const SECOND: &str = "REMOTE_DOCKERD_BEGUN";

/// How long memory that was given back may stay here.
const PERIOD: Duration = Duration::from_secs(10);

/// Keeps threads from having heaps of their own, of which the C library makes up to eight for each processor: what
/// one thread takes and another gives back would stay with the one, and the process would grow by a megabyte with
/// every lease that is made, whether it lives or not (0.04 MiB with two heaps). To be called before there is a second thread.
pub fn share() {
    // SAFETY: sets a number of the allocator, which no other thread uses at the time.
    if unsafe { libc::mallopt(libc::M_ARENA_MAX, HEAPS) } == 0 {
        tracing::warn!("the C library makes as many heaps as it likes");
    }
}

/// Keeps threads from keeping much: libvirt has one for each machine, which does next to nothing once the machine
/// runs, and would keep a tenth of a megabyte for ever. The C library takes this setting from the environment alone,
/// so this process becomes the same program again, as the same process. Settings that somebody made stay as they are.
///
/// To be called before this process has a second thread, and before it has read anything that can be read once only.
///
/// # Errors
/// When the system does not let it. The process is as it was.
pub fn keep_little_for_threads() -> io::Result<()> {
    #[expect(
        clippy::disallowed_methods,
        reason = "it is the C library that is configured by it"
    )]
    let (is_second, settings) = (env::var_os(SECOND).is_some(), env::var_os(SETTINGS));
    if is_second {
        // What this process starts is not meant.
        // SAFETY: there is no other thread yet that could read the environment at the same time.
        unsafe { env::remove_var(SECOND) };
        if settings.is_some_and(|settings| settings == LITTLE) {
            // SAFETY: as above.
            unsafe { env::remove_var(SETTINGS) };
        }
        return Ok(());
    }
    if settings.is_some() {
        return Ok(());
    }
    let program = env::current_exe()?;
    let arguments: Vec<OsString> = env::args_os().collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name != program.file_name() {
        return Err(io::Error::other(format!(
            "this program runs as {}, by way of another",
            program.display()
        )));
    }
    let variables = env::vars_os().map(|(name, value)| [name, value].join("=".as_ref()));
    let added = [(SETTINGS, LITTLE), (SECOND, "1")].map(|(name, value)| format!("{name}={value}"));
    let variables = variables.chain(added.map(OsString::from));
    // Not by `Command`, which leaves signals as it has set them for a new program when there is none.
    let done = nix::unistd::execve(
        &text(program.into_os_string())?,
        &arguments
            .into_iter()
            .map(text)
            .collect::<Result<Vec<_>, _>>()?,
        &variables.map(text).collect::<Result<Vec<_>, _>>()?,
    );
    done.map(|never| match never {}).map_err(io::Error::from)
}

fn text(text: OsString) -> io::Result<CString> {
    CString::new(text.into_vec()).map_err(io::Error::other)
}

/// Gives back to the system what nobody uses, now and then after something `changes`: libvirt asks QEMU what it can do
/// when it is opened, and the answers are megabytes.
pub async fn tend(mut changes: watch::Receiver<u64>) {
    loop {
        // Who works on the heap waits meanwhile; this is some milliseconds.
        let _ = tokio::task::spawn_blocking(give_back).await;
        if changes.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Gives back to the system what nobody uses.
fn give_back() {
    // SAFETY: the allocator takes its own locks, and nobody has a pointer to what is free.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_memory_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let number = line.unwrap().split_whitespace().next().unwrap();
        number.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_uses_goes_back_after_a_change() {
        let (changed, changes) = watch::channel(0);
        let tending = tokio::spawn(tend(changes));
        tokio::time::sleep(PERIOD * 2).await;
        // Each second piece stays, so that no end of the heap is free.
        let mut pieces: Vec<_> = (0..2048_usize).map(|_| vec![1_u8; 32 << 10]).collect();
        let mut number = 0;
        pieces.retain(|_| {
            number += 1;
            number % 2 == 0
        });
        let before = own_memory_kib();
        changed.send_replace(1);
        drop(changed);
        tending.await.unwrap();
        let after = own_memory_kib();
        assert!(
            after + (20 << 10) < before,
            "{before} {after} {}",
            pieces.len()
        );
    }
}
