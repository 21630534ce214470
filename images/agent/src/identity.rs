//! The names of the guest: host name, machine id, and who answers questions about names.
//!
//! The files that make a machine itself lie in memory and are mounted where programs look for them. So
//! a secret never reaches a disk, and a clone does not wait for one: a file system that had to find
//! room for five small files took longer than the keys in them.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use guest_protocol::Activation;
use nix::mount::{MsFlags, mount};

/// Where the files are; `/run` is in memory.
const FOLDER: &str = "/run/identity";

/// A file of the identity: where programs look for it, and who may read it.
pub(crate) struct IdentityFile {
    path: &'static str,
    mode: u32,
}

const HOSTNAME: IdentityFile = IdentityFile {
    path: "/etc/hostname",
    mode: 0o644,
};
const HOSTS: IdentityFile = IdentityFile {
    path: "/etc/hosts",
    mode: 0o644,
};
const MACHINE_ID: IdentityFile = IdentityFile {
    path: "/etc/machine-id",
    mode: 0o444,
};
const RESOLV_CONF: IdentityFile = IdentityFile {
    path: "/etc/resolv.conf",
    mode: 0o644,
};
/// sshd's private key, in OpenSSH's format.
pub(crate) const SSH_KEY: IdentityFile = IdentityFile {
    path: "/etc/ssh/ssh_host_ed25519_key",
    mode: 0o600,
};
/// sshd's public key, in OpenSSH's format.
pub(crate) const SSH_PUBLIC_KEY: IdentityFile = IdentityFile {
    path: "/etc/ssh/ssh_host_ed25519_key.pub",
    mode: 0o644,
};

impl IdentityFile {
    /// Writes the file anew, in place: programs see it through a mount of this very file.
    ///
    /// # Errors
    /// The kernel's, with the path.
    pub(crate) fn write(&self, text: &str) -> anyhow::Result<()> {
        self.write_in(Path::new(FOLDER), text)
    }

    fn write_in(&self, folder: &Path, text: &str) -> anyhow::Result<()> {
        let path = folder.join(self.name());
        // Made with its mode, so that it never is readable to more.
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(self.mode)
            .open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Mounts the file where programs look for it.
    fn mount(&self) -> anyhow::Result<()> {
        let target = Path::new(self.path);
        let mounted = || -> io::Result<()> {
            fs::create_dir_all(target.parent().unwrap_or(target))?;
            OpenOptions::new().create(true).append(true).open(target)?;
            let source = Path::new(FOLDER).join(self.name());
            let no = None::<&str>;
            Ok(mount(Some(&source), target, no, MsFlags::MS_BIND, no)?)
        };
        mounted().with_context(|| format!("cannot mount {}", self.path))
    }

    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }
}

/// Makes the files, with what a guest without an identity needs to work. Once, at boot.
///
/// # Errors
/// The first that could not be made.
pub(crate) fn prepare() -> anyhow::Result<()> {
    fs::create_dir_all(FOLDER).with_context(|| format!("cannot make {FOLDER}"))?;
    let files = [
        (&HOSTNAME, "localhost\n".to_owned()),
        (&HOSTS, hosts(None)),
        (&MACHINE_ID, String::new()),
        (&RESOLV_CONF, resolv_conf(&[])),
        (&SSH_KEY, String::new()),
        (&SSH_PUBLIC_KEY, String::new()),
    ];
    for (file, text) in files {
        file.write(&text)?;
        file.mount()?;
    }
    Ok(())
}

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
    HOSTNAME.write(&format!("{}\n", order.hostname))?;
    HOSTS.write(&hosts(Some((&order.hostname, order.address))))?;
    MACHINE_ID.write(&format!("{}\n", order.machine_id))?;
    RESOLV_CONF.write(&resolv_conf(&order.nameservers))
}

/// The host name and the machine id as they are now.
///
/// # Errors
/// They cannot be read.
pub(crate) fn current() -> anyhow::Result<(String, String)> {
    let hostname = nix::unistd::gethostname().context("cannot read the host name")?;
    let machine_id = fs::read_to_string(MACHINE_ID.path)
        .with_context(|| format!("cannot read {}", MACHINE_ID.path))?;
    Ok((
        hostname.to_string_lossy().into_owned(),
        machine_id.trim_end().to_owned(),
    ))
}

/// No IPv6 names: the guest has none of it.
fn hosts(own: Option<(&str, Ipv4Addr)>) -> String {
    let mut text = "127.0.0.1\tlocalhost\n".to_owned();
    if let Some((hostname, address)) = own {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{address}\t{hostname}");
    }
    text
}

/// The resolver's configuration.
fn resolv_conf(nameservers: &[Ipv4Addr]) -> String {
    let mut text = String::new();
    for server in nameservers {
        let _ = writeln!(text, "nameserver {server}");
    }
    text.push_str("options timeout:2 attempts:2\n");
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn order(hostname: &str, machine_id: &str) -> Activation {
        Activation {
            hostname: hostname.into(),
            machine_id: machine_id.into(),
            address: Ipv4Addr::new(100, 64, 0, 7),
            gateway: Ipv4Addr::new(169, 254, 1, 1),
            gateway_mac: [0; 6],
            nameservers: vec![],
            unix_time_ns: 0,
            entropy_hex: String::new(),
            expect_reseed: true,
            site: Default::default(),
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
        assert_eq!(
            hosts(Some(("vm-1", one))),
            "127.0.0.1\tlocalhost\n10.0.0.1\tvm-1\n"
        );
        assert_eq!(
            resolv_conf(&[one, two]),
            "nameserver 10.0.0.1\nnameserver 10.0.0.2\noptions timeout:2 attempts:2\n"
        );
        assert!(!resolv_conf(&[]).contains("nameserver"));
    }

    #[test]
    fn a_secret_is_for_root_alone_and_written_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ssh_host_ed25519_key");
        SSH_KEY.write_in(folder.path(), "a longer secret").unwrap();
        let before = fs::metadata(&path).unwrap();
        SSH_KEY.write_in(folder.path(), "secret").unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!(after.permissions().mode() & 0o777, 0o600);
        assert_eq!(
            after.ino(),
            before.ino(),
            "a mount of it would show the former one"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "secret");
    }
}
