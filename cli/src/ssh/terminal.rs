//! This side's terminal, for as long as a shell on the machine has it.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// A terminal that passes every key on as it is. Put back when dropped.
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    /// # Errors
    /// Standard input is no terminal, or cannot be set.
    pub(super) fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing else can be done about a terminal that is gone.
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &self.before);
    }
}

/// Whether somebody types here and sees what is printed.
pub(super) fn is_there() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Columns and rows.
pub(super) fn size() -> (u32, u32) {
    nix::ioctl_read_bad!(window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);
    let mut found = nix::libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let stdin = io::stdin();
    // SAFETY: the descriptor is open for the call, and the request writes one `winsize`.
    let told = unsafe {
        window_size(
            std::os::fd::AsRawFd::as_raw_fd(&stdin.as_fd()),
            &raw mut found,
        )
    };
    match told {
        Ok(_) if found.ws_col > 0 && found.ws_row > 0 => (found.ws_col.into(), found.ws_row.into()),
        _ => (80, 24),
    }
}
