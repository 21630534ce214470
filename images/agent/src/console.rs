//! Short lines for whoever reads the serial console, where each byte is slow.

use std::fmt::Arguments;
use std::fs::OpenOptions;
use std::io::Write;

use nix::sys::reboot::{RebootMode, reboot};

use crate::clock;

/// Longest line, in bytes. A line may quote a daemon, and a daemon may quote a user.
const MAX_LINE_BYTES: usize = 400;

/// Writes one line to the console, with the seconds since boot in front.
macro_rules! say {
    ($($arg:tt)*) => { $crate::console::line(format_args!($($arg)*)) };
}
pub(crate) use say;

/// What [`say!`] expands to.
pub(crate) fn line(text: Arguments<'_>) {
    let since_boot = clock::since_boot();
    let text = printable(&text.to_string());
    let line = format!("[agent {:.3}] {text}\n", since_boot.as_secs_f64());
    // A console that takes nothing leaves nobody to tell.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// One line of at most [`MAX_LINE_BYTES`], without what could drive a terminal.
fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(MAX_LINE_BYTES));
    for character in text.chars() {
        if line.len() + character.len_utf8() > MAX_LINE_BYTES {
            break;
        }
        line.push(if character.is_control() {
            ' '
        } else {
            character
        });
    }
    line
}

/// Makes `/dev/console` the standard streams of this process and, unless told otherwise, of its
/// children. The kernel does so only if the initramfs holds that node.
pub(crate) fn attach() {
    let Ok(console) = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/console")
    else {
        return;
    };
    // A stream that cannot be replaced stays what it was.
    let _ = nix::unistd::dup2_stdin(&console);
    let _ = nix::unistd::dup2_stdout(&console);
    let _ = nix::unistd::dup2_stderr(&console);
}

/// Says why, and ends the guest.
pub(crate) fn power_off(reason: &str) -> ! {
    line(format_args!("fatal: {reason}; powering off"));
    // The line must be out before the machine is gone.
    let _ = nix::sys::termios::tcdrain(std::io::stderr());
    let failed = reboot(RebootMode::RB_POWER_OFF);
    line(format_args!("power off: {failed:?}"));
    // PID 1 that ends is a kernel panic: the last way out.
    std::process::exit(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_short_line_whatever_it_quotes() {
        assert_eq!(printable("a\nb\x1b[2Jc"), "a b [2Jc");
        let long = printable(&"ä".repeat(1000));
        assert_eq!(long, "ä".repeat(MAX_LINE_BYTES / 2));
    }
}
