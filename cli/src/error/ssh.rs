//! The exit codes and hints of what can go wrong with SSH.

use crate::ssh::SshError;

pub(super) fn exit_code(error: &SshError) -> u8 {
    match error {
        SshError::Connect { .. } | SshError::BrokeOff | SshError::NotOffered => 69,
        SshError::Tls(_) | SshError::OtherHostKey | SshError::Refused | SshError::Protocol(_) => 76,
        SshError::Keys { .. }
        | SshError::BadKeys { .. }
        | SshError::Stdin(_)
        | SshError::Listen { .. }
        | SshError::Terminal(_) => 74,
    }
}

pub(super) fn hint(error: &SshError) -> &'static str {
    match error {
        SshError::NotOffered => {
            "the server or its image is older than this program; a lease on a newer one has SSH"
        }
        SshError::Connect { .. } | SshError::Tls(_) | SshError::BrokeOff => {
            "`setup-remote-docker show` tells whether the lease still lasts"
        }
        SshError::OtherHostKey => {
            "do not trust this machine: give it back with `setup-remote-docker stop` and tell the server's \
             operator"
        }
        SshError::Refused | SshError::Protocol(_) => {
            "something on the machine may have changed its SSH server; `docker` may still work"
        }
        SshError::Keys { .. } | SshError::BadKeys { .. } => {
            "the lease was perhaps given back meanwhile; `setup-remote-docker list` shows those that last"
        }
        SshError::Listen { .. } => "-L takes another port, such as 8081:localhost:80",
        SshError::Stdin(_) | SshError::Terminal(_) => {
            "a command needs no terminal: `setup-remote-docker ssh COMMAND </dev/null`"
        }
    }
}
