//! Kernel settings of the calling thread's network namespace.

use std::fs;
use std::io::ErrorKind;

use super::NetworkError;

/// For all devices and for those to come (`conf/all`, `conf/default`). Said one by one because a new
/// namespace takes over what the host has, which other software may have changed.
const IPV4: [(&str, &str); 9] = [
    // A packet's sender must be reached by the device it came from.
    ("rp_filter", "1"),
    // Answer questions for an address only on the device that has it, and never for somebody else.
    ("arp_ignore", "1"),
    ("proxy_arp", "0"),
    // 127.0.0.0/8 and our own addresses never come from a wire.
    ("route_localnet", "0"),
    ("accept_local", "0"),
    // Guests do not choose routes.
    ("accept_source_route", "0"),
    ("accept_redirects", "0"),
    ("send_redirects", "0"),
    // A guest that sends strange packets does not fill the host's log.
    ("log_martians", "0"),
];

/// Sets the VMs' namespace up, forwarding excepted.
pub(super) fn harden() -> Result<(), NetworkError> {
    for scope in ["all", "default"] {
        for (key, value) in IPV4 {
            write(&format!("net/ipv4/conf/{scope}/{key}"), value)?;
        }
        disable_ipv6(scope)?;
    }
    Ok(())
}

/// Switches IPv6 off for a device. A kernel without IPv6 needs nothing.
pub(super) fn disable_ipv6(device: &str) -> Result<(), NetworkError> {
    match write(&format!("net/ipv6/conf/{device}/disable_ipv6"), "1") {
        Err(NetworkError::System { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Switches forwarding on; tells whether it was off.
pub(super) fn forward() -> Result<bool, NetworkError> {
    const KEY: &str = "net/ipv4/ip_forward";
    let now = fs::read_to_string(path(KEY)).map_err(NetworkError::system(format!("read {KEY}")))?;
    if now.trim() == "1" {
        return Ok(false);
    }
    write(KEY, "1").map(|()| true)
}

fn write(key: &str, value: &str) -> Result<(), NetworkError> {
    fs::write(path(key), value).map_err(NetworkError::system(format!("set {key} to {value}")))
}

fn path(key: &str) -> String {
    format!("/proc/sys/{key}")
}
