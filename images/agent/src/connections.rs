//! How many connections somebody holds to this guest's Docker, asked of the kernel: a copy of a guest
//! must not inherit one.

use std::io::ErrorKind;

use anyhow::Context;
use guest_protocol::DOCKER_PORT;

use crate::docker::SOCKET;

/// `st` of a listening and of a finished TCP socket (`include/net/tcp_states.h`).
const TCP_TIME_WAIT: &str = "06";
const TCP_LISTEN: &str = "0A";

/// `St` of a Unix socket that only listens (`SS_UNCONNECTED` of `linux/net.h`). The others are
/// connected, waiting to be accepted, or being closed.
const UNIX_LISTENING: &str = "01";

/// Open connections to the Docker socket and the TLS port.
///
/// # Errors
/// The kernel's lists cannot be read.
pub(crate) fn open() -> anyhow::Result<u32> {
    let read = |path: &str| match std::fs::read_to_string(path) {
        // No IPv6 in this kernel.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        other => other.with_context(|| format!("cannot read {path}")),
    };
    let count = unix(&read("/proc/net/unix")?, SOCKET)
        + tcp(&read("/proc/net/tcp")?, DOCKER_PORT)
        + tcp(&read("/proc/net/tcp6")?, DOCKER_PORT);
    Ok(u32::try_from(count)?)
}

/// Lines look like `ffff: 00000003 00000000 00000000 0001 03 17234 /run/docker.sock`; the end that
/// was accepted carries the path, so each connection counts once.
fn unix(list: &str, path: &str) -> usize {
    list.lines()
        .filter(|line| {
            let mut fields = line.split_whitespace().skip(5);
            fields.next() != Some(UNIX_LISTENING) && fields.nth(1) == Some(path)
        })
        .count()
}

/// Lines look like `0: 0100007F:0948 0100007F:C350 01 …`.
fn tcp(list: &str, port: u16) -> usize {
    let suffix = format!(":{port:04X}");
    list.lines()
        .filter(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (local, state) = (fields.next(), fields.nth(1));
            local.is_some_and(|local| local.ends_with(&suffix))
                && !matches!(state, Some(TCP_TIME_WAIT | TCP_LISTEN) | None)
        })
        .count()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn the_kernels_own_lists_are_understood() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        let name = path.to_str().unwrap();
        let tcp_listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp_listener.local_addr().unwrap();
        let unix_listener = UnixListener::bind(&path).unwrap();
        let count = || {
            let read = |list: &str| std::fs::read_to_string(list).unwrap();
            (
                unix(&read("/proc/net/unix"), name),
                tcp(&read("/proc/net/tcp"), address.port()),
            )
        };
        assert_eq!(count(), (0, 0));

        // Not yet accepted is a connection as well.
        let (client, mut tcp_client) = (
            UnixStream::connect(&path).unwrap(),
            TcpStream::connect(address).unwrap(),
        );
        assert_eq!(count(), (1, 1));
        let (server, _) = unix_listener.accept().unwrap();
        let (tcp_server, _) = tcp_listener.accept().unwrap();
        tcp_client.write_all(b"x").unwrap();
        assert_eq!(count(), (1, 1));
        drop((client, server, tcp_client, tcp_server));
        assert_eq!(count(), (0, 0));
    }
}
