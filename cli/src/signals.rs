//! Signals that end the program, turned into something that can be awaited.
//!
//! For `run` it matters who sent a signal. Ctrl-C on a terminal makes the kernel signal the whole
//! foreground process group, the command included; a signal sent with `kill` reaches this process
//! alone and has to be passed on. The two are told apart by the sender in `siginfo_t`, which is
//! why this does not use `tokio::signal`.

use std::future::pending;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::pipe2;
use tokio::net::unix::pipe;

/// The signals that would end the program.
const WATCHED: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

/// A signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caught {
    pub(crate) signal: Signal,
    /// The kernel sent it, which for these signals means: the terminal, to the whole group.
    pub(crate) from_terminal: bool,
}

/// The signals of this process from now on.
pub(crate) struct Signals {
    receiver: pipe::Receiver,
}

impl Signals {
    /// Takes the signals over. One that was ignored when the program started stays ignored, as
    /// `nohup` and shells with background jobs expect. Must be called inside the event loop.
    ///
    /// # Errors
    /// The system has no pipe or no handler to give.
    pub(crate) fn install() -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let receiver = pipe::Receiver::from_owned_fd(read)?;
        // The handlers stay for the rest of the process, and so must the pipe that they write to.
        let target = Box::leak(Box::new(write)).as_raw_fd();
        for signal in WATCHED {
            if !is_ignored(signal)? {
                handle(signal, target)?;
            }
        }
        Ok(Self { receiver })
    }

    /// The next signal.
    pub(crate) async fn next(&mut self) -> Caught {
        loop {
            if self.receiver.readable().await.is_err() {
                // The event loop is going down, and the program with it.
                pending().await
            }
            // A record is one signal, written in one piece.
            let mut record = [0; 2];
            if let Ok(length) = self.receiver.try_read(&mut record)
                && let Some(caught) = decode(&record[..length])
            {
                return caught;
            }
        }
    }

    /// A signal that has already arrived.
    pub(crate) fn arrived(&mut self) -> Option<Caught> {
        let mut record = [0; 2];
        // Read past the event loop, which may not have seen yet that there is something.
        let length = nix::unistd::read(self.receiver.as_fd(), &mut record).ok()?;
        decode(&record[..length])
    }
}

fn decode(record: &[u8]) -> Option<Caught> {
    let &[number, from_terminal] = record else {
        return None;
    };
    Some(Caught {
        signal: Signal::try_from(i32::from(number)).ok()?,
        from_terminal: from_terminal != 0,
    })
}

fn handle(signal: Signal, target: RawFd) -> io::Result<()> {
    let number = signal as u8;
    let action = move |info: &libc::siginfo_t| {
        // Positive codes are the kernel's own. The sender's pid would not do: it is 0 as well for
        // a sender outside of this pid namespace, such as a container's runtime.
        let record = [number, u8::from(info.si_code > 0)];
        // SAFETY: `write` is async-signal-safe and `record` lives across the call. A full pipe
        // refuses (it is non-blocking), which loses a signal behind 32,000 others. `errno` is
        // kept by the registry's handler around the actions.
        unsafe { libc::write(target, record.as_ptr().cast(), record.len()) };
    };
    // SAFETY: the action only calls `write`, which is async-signal-safe: no allocation, no lock.
    unsafe { signal_hook_registry::register_sigaction(signal as i32, action) }?;
    Ok(())
}

fn is_ignored(signal: Signal) -> io::Result<bool> {
    let mut current = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with no new action the call only writes the present one to `current`.
    let code = unsafe { libc::sigaction(signal as i32, std::ptr::null(), current.as_mut_ptr()) };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call had success and filled it.
    let current = unsafe { current.assume_init() };
    Ok(current.sa_sigaction == libc::SIG_IGN)
}
