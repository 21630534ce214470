//! Runs `nft`, the packet filter's own tool.

use std::io::{ErrorKind, Write};
use std::process::{Child, Command, Stdio};

use super::NetworkError;

/// As found by `PATH`, and where it is on systems that leave `sbin` out of it.
const PROGRAMS: [&str; 2] = ["nft", "/usr/sbin/nft"];

/// Loads rules into the calling thread's network namespace: all of them or, on an error, none. Takes
/// some 10 ms.
///
/// # Errors
/// When `nft` is not installed, or when the kernel refuses the rules.
pub(super) fn load(rules: &str) -> Result<(), NetworkError> {
    let mut nft = start()?;
    // `nft` reads to the end before it says anything, so its own pipes cannot fill up meanwhile. If it
    // stops reading early, its exit status tells more than our broken pipe.
    if let Some(mut input) = nft.stdin.take() {
        let _ = input.write_all(rules.as_bytes());
    }
    let output = nft
        .wait_with_output()
        .map_err(NetworkError::system("wait for `nft`"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.trim().chars().take(1000).collect();
    Err(NetworkError::Filter(format!(
        "`nft` refused the rules ({}): {said}",
        output.status
    )))
}

fn start() -> Result<Child, NetworkError> {
    for program in PROGRAMS {
        let started = Command::new(program)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        match started {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return other.map_err(NetworkError::system("run `nft`")),
        }
    }
    Err(NetworkError::Filter(
        "the program `nft` is not installed; install the package `nftables`".to_owned(),
    ))
}
