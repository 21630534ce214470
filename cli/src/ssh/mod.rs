//! SSH to the machine of a lease. It travels inside TLS to the very port that `docker` uses, with the same
//! certificates: whoever holds the lease is let in, and nobody else gets as far as an SSH server. So no key
//! of the user is involved, and no `ssh` on this machine.

mod client;
mod forward;
mod session;
mod terminal;
mod tunnel;

use remote_docker_api::SshEndpoint;
use russh::keys::PublicKey;

use crate::lease_dir::LeaseDir;
use crate::output::host_and_port;

pub(crate) use client::Connection;
pub(crate) use forward::Forward;
pub(crate) use session::Wanted;
pub(crate) use tunnel::pipe;

/// How the machine of a lease is reached.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Name or address of the relay, and its port.
    host: String,
    port: u16,
    alpn: String,
    user: String,
    host_key: PublicKey,
    keys: tunnel::Keys,
}

/// Why there is no SSH.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SshError {
    #[error("cannot read {}", path.display())]
    Keys {
        path: std::path::PathBuf,
        source: std::io::Error,
    },
    #[error("the keys in {} cannot be used", folder.display())]
    BadKeys {
        folder: std::path::PathBuf,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("nothing is noted about SSH beside the keys of this lease")]
    NotOffered,
    #[error("cannot connect to the machine at {at}")]
    Connect { at: String, source: std::io::Error },
    #[error("the machine does not take this lease's certificate, or does not show its own")]
    Tls(#[source] std::io::Error),
    #[error("the machine shows another SSH host key than the server told")]
    OtherHostKey,
    #[error("the machine lets nobody in by SSH")]
    Refused,
    #[error("the SSH connection failed")]
    Protocol(#[source] russh::Error),
    #[error("the SSH connection broke off before the command ended")]
    BrokeOff,
    #[error("cannot read standard input")]
    Stdin(#[source] std::io::Error),
    #[error("cannot listen on {at}")]
    Listen { at: String, source: std::io::Error },
    #[error("cannot use the terminal")]
    Terminal(#[source] std::io::Error),
}

impl From<russh::Error> for SshError {
    fn from(error: russh::Error) -> Self {
        Self::Protocol(error)
    }
}

impl Endpoint {
    /// What is noted in the folder of a lease.
    ///
    /// # Errors
    /// The server offers no SSH, or the keys cannot be read.
    pub(crate) fn of(dir: &LeaseDir) -> Result<Self, SshError> {
        let note = dir.note().ok_or(SshError::NotOffered)?;
        let ssh = note.ssh.as_ref().ok_or(SshError::NotOffered)?;
        let (host, port) = host_and_port(&note.docker_host).ok_or(SshError::NotOffered)?;
        Ok(Self {
            host: host.to_owned(),
            port,
            alpn: ssh.alpn.clone(),
            user: ssh.user.clone(),
            host_key: host_key(ssh).ok_or(SshError::NotOffered)?,
            keys: tunnel::Keys::read(dir)?,
        })
    }

    /// Whom to log in as.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// Whether what the server told about SSH can be used and written into a configuration file.
pub(crate) fn is_usable(ssh: &SshEndpoint) -> bool {
    let is_name = |text: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        !text.is_empty() && text.len() <= 64 && !text.starts_with('-') && text.bytes().all(plain)
    };
    is_name(&ssh.user) && is_name(&ssh.alpn) && host_key(ssh).is_some()
}

fn host_key(ssh: &SshEndpoint) -> Option<PublicKey> {
    let one_line = !ssh.host_key.contains(['\n', '\r']);
    one_line
        .then(|| PublicKey::from_openssh(&ssh.host_key).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPbHk4Zb+qNHT5XQ3cUXE4J/eTMBEz5Sg6Gwdl9h1Ld";

    #[test]
    fn only_what_stays_one_word_of_a_configuration_file_is_used() {
        let endpoint = |user: &str, alpn: &str, host_key: &str| SshEndpoint {
            user: user.to_owned(),
            alpn: alpn.to_owned(),
            host_key: host_key.to_owned(),
        };
        assert!(is_usable(&endpoint("root", "remote-docker-ssh", KEY)));
        let two_lines = format!("{KEY}\n{KEY}");
        for (user, alpn, key) in [
            ("", "a", KEY),
            ("root\nProxyCommand evil", "a", KEY),
            ("-oProxyCommand=evil", "a", KEY),
            ("a b", "a", KEY),
            ("root", "", KEY),
            ("root", "a\0", KEY),
            ("root", "a", ""),
            ("root", "a", "ssh-ed25519 AAAA"),
            ("root", "a", two_lines.as_str()),
        ] {
            assert!(
                !is_usable(&endpoint(user, alpn, key)),
                "{user:?} {alpn:?} {key:?}"
            );
        }
    }
}
