//! The names of the guest: host name, machine id, and who answers questions about names.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, bail};
use guest_protocol::Activation;

const MACHINE_ID: &str = "/etc/machine-id";

/// Whether the names in a request are names.
///
/// # Errors
/// The first one that is none.
pub(crate) fn check(order: &Activation) -> anyhow::Result<()> {
    let hostname = order.hostname.as_bytes();
    let label = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    if hostname.is_empty()
        || hostname.len() > 63
        || !hostname.iter().all(label)
        || hostname.starts_with(b"-")
        || hostname.ends_with(b"-")
    {
        bail!("the host name is not a DNS label of lower-case letters, digits and hyphens");
    }
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if order.machine_id.len() != 32 || !order.machine_id.bytes().all(digit) {
        bail!("the machine id is not 32 lower-case hexadecimal digits");
    }
    Ok(())
}

/// Gives the guest its names.
///
/// # Errors
/// The first that could not be given.
pub(crate) fn apply(order: &Activation) -> anyhow::Result<()> {
    nix::unistd::sethostname(&order.hostname).context("cannot set the host name")?;
    write("/etc/hostname", &format!("{}\n", order.hostname))?;
    write("/etc/hosts", &hosts(&order.hostname, order.address))?;
    write(MACHINE_ID, &format!("{}\n", order.machine_id))?;
    write("/etc/resolv.conf", &resolv_conf(&order.nameservers))
}

/// The host name and the machine id as they are now.
///
/// # Errors
/// They cannot be read.
pub(crate) fn current() -> anyhow::Result<(String, String)> {
    let hostname = nix::unistd::gethostname().context("cannot read the host name")?;
    let machine_id =
        fs::read_to_string(MACHINE_ID).with_context(|| format!("cannot read {MACHINE_ID}"))?;
    Ok((
        hostname.to_string_lossy().into_owned(),
        machine_id.trim_end().to_owned(),
    ))
}

fn write(path: &str, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {path}"))
}

/// No IPv6 names: the guest has none of it.
fn hosts(hostname: &str, address: Ipv4Addr) -> String {
    format!("127.0.0.1\tlocalhost\n{address}\t{hostname}\n")
}

/// The resolver's configuration. Without servers, a question fails at once instead of being asked
/// of the guest itself, which the C library does when the file is empty.
fn resolv_conf(nameservers: &[Ipv4Addr]) -> String {
    let mut text = String::new();
    for server in nameservers {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "nameserver {server}");
    }
    text.push_str("options timeout:2 attempts:2\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(hostname: &str, machine_id: &str) -> Activation {
        Activation {
            hostname: hostname.into(),
            machine_id: machine_id.into(),
            address: Ipv4Addr::new(100, 64, 0, 7),
            gateway: Ipv4Addr::new(169, 254, 1, 1),
            nameservers: vec![],
            unix_time_ns: 0,
            entropy_hex: String::new(),
            expect_reseed: true,
        }
    }

    #[test]
    fn names_that_would_break_a_file_are_refused() {
        let id = "0123456789abcdef0123456789abcdef";
        assert!(check(&order("vm-1a2b", id)).is_ok());
        for hostname in [
            "",
            "a b",
            "a\nnameserver",
            "-a",
            "a-",
            "Ab",
            "a.b",
            &"a".repeat(64),
        ] {
            assert!(check(&order(hostname, id)).is_err(), "{hostname:?}");
        }
        for machine_id in [
            "",
            "0123",
            &id.to_uppercase(),
            &format!("{id}\n"),
            &"g".repeat(32),
        ] {
            assert!(check(&order("vm", machine_id)).is_err(), "{machine_id:?}");
        }
    }

    #[test]
    fn files_say_what_was_asked_for() {
        let (one, two) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(hosts("vm-1", one), "127.0.0.1\tlocalhost\n10.0.0.1\tvm-1\n");
        assert_eq!(
            resolv_conf(&[one, two]),
            "nameserver 10.0.0.1\nnameserver 10.0.0.2\noptions timeout:2 attempts:2\n"
        );
        assert!(!resolv_conf(&[]).contains("nameserver"));
    }
}
