//! An SSH connection: the host key is the one that the server told, and the user's name is enough.

use std::sync::Arc;
use std::time::Duration;

use russh::client::{Config, Handle, Handler, connect_stream};
use russh::keys::{PublicKey, PublicKeyOrCertificate};

use super::{Endpoint, SshError, tunnel};

/// After so long without a word from the machine it is asked for one, and three times are too many: a
/// machine that is gone is noticed within a minute.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How soon it is noticed that a connection is no more.
const LOOK: Duration = Duration::from_millis(500);

/// A connection on which sessions can be opened.
pub(crate) struct Connection {
    pub(super) handle: Handle<Pinned>,
}

/// Knows the one key that may be shown.
pub(super) struct Pinned {
    expected: PublicKey,
}

impl Handler for Pinned {
    type Error = SshError;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        let same = matches!(shown, PublicKeyOrCertificate::PublicKey { key, .. }
            if key.key_data() == self.expected.key_data());
        if same {
            Ok(true)
        } else {
            Err(SshError::OtherHostKey)
        }
    }
}

impl Connection {
    /// Connects and logs in.
    ///
    /// # Errors
    /// The machine cannot be reached, is another, or lets nobody in.
    pub(crate) async fn open(endpoint: Endpoint) -> Result<Self, SshError> {
        let config = Config {
            keepalive_interval: Some(KEEPALIVE),
            ..Config::default()
        };
        let handler = Pinned {
            expected: endpoint.host_key.clone(),
        };
        let user = endpoint.user.clone();
        let stream = tunnel::connect(endpoint).await?;
        let mut handle = connect_stream(Arc::new(config), stream, handler).await?;
        if handle.authenticate_none(user).await?.success() {
            Ok(Self { handle })
        } else {
            Err(SshError::Refused)
        }
    }

    /// Waits until the connection is no more.
    pub(crate) async fn ended(&self) {
        while !self.handle.is_closed() {
            tokio::time::sleep(LOOK).await;
        }
    }
}
