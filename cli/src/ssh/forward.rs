//! Ports of this side that lead to what the machine reaches: `-L` of `ssh`.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::{Connection, SshError};

/// Pause after a connection that could not be accepted (no file descriptor left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// `[ADDRESS:]PORT:HOST:HOSTPORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forward {
    listen: (String, u16),
    target: (String, u16),
}

/// It is not of that form.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a forwarded port looks like 8080:localhost:80 or 0.0.0.0:8080:localhost:80")]
pub(crate) struct ForwardParseError;

impl FromStr for Forward {
    type Err = ForwardParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = |text: &str| match text.parse() {
            Ok(0) | Err(_) => Err(ForwardParseError),
            Ok(port) => Ok(port),
        };
        let host = |text: &str| {
            let bare = text
                .strip_prefix('[')
                .and_then(|text| text.strip_suffix(']'));
            let host = bare.unwrap_or(text);
            if host.is_empty() {
                Err(ForwardParseError)
            } else {
                Ok(host.to_owned())
            }
        };
        let (address, local, remote, remote_port) = match &parts(text)[..] {
            [local, remote, remote_port] => ("127.0.0.1", *local, *remote, *remote_port),
            [address, local, remote, remote_port] => (*address, *local, *remote, *remote_port),
            _ => return Err(ForwardParseError),
        };
        Ok(Self {
            listen: (host(address)?, port(local)?),
            target: (host(remote)?, port(remote_port)?),
        })
    }
}

/// What stands between colons, those in brackets aside.
fn parts(text: &str) -> Vec<&str> {
    let mut in_brackets = false;
    text.split(|character| {
        match character {
            '[' => in_brackets = true,
            ']' => in_brackets = false,
            _ => {}
        }
        character == ':' && !in_brackets
    })
    .collect()
}

impl Connection {
    /// Listens, and serves from then on for as long as the connection lasts.
    ///
    /// # Errors
    /// The port is taken.
    pub(crate) async fn forward(self: &Arc<Self>, forward: Forward) -> Result<(), SshError> {
        let (address, port) = &forward.listen;
        let listener = TcpListener::bind((address.as_str(), *port))
            .await
            .map_err(|source| SshError::Listen {
                at: format!("{address}:{port}"),
                source,
            })?;
        let connection = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((client, _)) => {
                        tokio::spawn(serve(
                            Arc::clone(&connection),
                            client,
                            forward.target.clone(),
                        ));
                    }
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                }
            }
        });
        Ok(())
    }
}

/// One client. What it wants is refused by closing its connection, as a port where nobody listens does.
async fn serve(connection: Arc<Connection>, mut client: TcpStream, (host, port): (String, u16)) {
    let opened = connection
        .handle
        .channel_open_direct_tcpip(host, port.into(), "127.0.0.1", 0);
    if let Ok(channel) = opened.await {
        // Whoever broke off has noticed.
        let _ = copy_bidirectional(&mut client, &mut channel.into_stream()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_ssh_reads_them() {
        let forward = |listen: (&str, u16), target: (&str, u16)| Forward {
            listen: (listen.0.to_owned(), listen.1),
            target: (target.0.to_owned(), target.1),
        };
        for (text, expected) in [
            (
                "8080:localhost:80",
                forward(("127.0.0.1", 8080), ("localhost", 80)),
            ),
            ("0.0.0.0:1:db:2", forward(("0.0.0.0", 1), ("db", 2))),
            ("[::1]:1:[fd00::2]:2", forward(("::1", 1), ("fd00::2", 2))),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "80",
            "80:localhost",
            "0:a:1",
            "1:a:0",
            "1::2",
            "70000:a:1",
            "a:1:b:2:3",
        ] {
            assert_eq!(text.parse::<Forward>(), Err(ForwardParseError), "{text}");
        }
    }
}
