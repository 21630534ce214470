//! What a descriptor is ready for at this moment. Never waits.

use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Which of `wanted` holds now, and whether the other side hung up, which is always told.
///
/// # Errors
/// The kernel's. A signal that comes in between is none: the agent is PID 1, hears of every child of
/// the guest that ends, and must not end of that itself.
pub(crate) fn now(descriptor: BorrowedFd<'_>, wanted: PollFlags) -> io::Result<PollFlags> {
    let mut polled = [PollFd::new(descriptor, wanted)];
    loop {
        match poll(&mut polled, PollTimeout::ZERO) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(polled[0].revents().unwrap_or_else(PollFlags::empty)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    use super::*;

    #[test]
    fn the_other_side_that_hung_up_is_told() {
        let (here, there) = UnixStream::pair().unwrap();
        let look = || now(here.as_fd(), PollFlags::POLLIN).unwrap();
        assert!(look().is_empty());
        drop(there);
        assert!(look().contains(PollFlags::POLLHUP));
    }

    #[test]
    fn a_signal_is_no_error() {
        extern "C" fn nothing(_: i32) {}
        let action = SigAction::new(
            SigHandler::Handler(nothing),
            SaFlags::SA_RESTART,
            SigSet::empty(),
        );
        // SAFETY: the handler does nothing, and nobody else in this process uses the signal.
        unsafe { sigaction(Signal::SIGURG, &action) }.unwrap();
        let (here, _there) = UnixStream::pair().unwrap();
        // SAFETY: asks for this thread's own handle.
        let target = unsafe { libc::pthread_self() };
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // SAFETY: the thread waits for this one, so it is there.
                    unsafe { libc::pthread_kill(target, libc::SIGURG) };
                }
            });
            // Signals that come while the kernel looks: some in a thousand.
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(1) {
                let seen = now(here.as_fd(), PollFlags::POLLIN);
                if !seen.as_ref().is_ok_and(|seen| seen.is_empty()) {
                    over.store(true, Ordering::Relaxed);
                    panic!("{seen:?}");
                }
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}
