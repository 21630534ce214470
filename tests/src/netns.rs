//! A network namespace for one test: what the server opens, forwards and filters there is seen nowhere
//! else, and ports of tests that run side by side never meet.

use nix::sched::{CloneFlags, unshare};

/// Moves the calling thread, and all that it starts from now on, into a new network namespace with a
/// loopback device. It lasts as long as its threads, processes and sockets.
///
/// # Panics
/// When the system refuses, which means that the caller is not root.
pub(crate) fn enter_new() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of one's own (takes root)");
    let up = std::process::Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .expect("running ip");
    assert!(up.success(), "cannot switch on the loopback device");
}
