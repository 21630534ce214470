//! Named places at which a test can kill the server as `kill -9` does. They exist only in builds with
//! the feature `failpoints`.

/// Every place, in the order in which a lease passes them.
pub const ALL: &[&str] = &[
    "lease-inserted",
    "vm-created",
    "vm-starting",
    "vm-started",
    "vm-activating",
    "vm-activated",
    "vm-ready",
    "port-reserved",
    "lease-assigned",
    "lease-ending",
    "vm-destroyed",
    "vm-gone",
    "lease-ended",
    "template-started",
    "template-written",
];

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;

    static NAME: OnceLock<String> = OnceLock::new();

    /// Arms the place of this name for the rest of the process's life.
    pub fn arm(name: String) {
        let _ = NAME.set(name);
    }

    /// Kills the process if this place is armed.
    pub fn hit(name: &str) {
        debug_assert!(
            super::ALL.contains(&name),
            "{name} is not in the list of failpoints"
        );
        if NAME.get().is_some_and(|armed| armed == name) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::SIGKILL);
        }
    }
}

#[cfg(feature = "failpoints")]
pub use armed::{arm, hit};

/// Does nothing in this build.
#[cfg(not(feature = "failpoints"))]
pub const fn hit(_name: &str) {}
