//! TLS to the machine, with the offer of SSH in it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Endpoint, SshError};
use crate::lease_dir::LeaseDir;

/// How long the machine may take until it has answered the handshake.
const LIMIT: Duration = Duration::from_secs(20);

/// What proves the holder of a lease, and its machine.
#[derive(Debug)]
pub(super) struct Keys {
    roots: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Keys {
    /// Reads them from the folder of a lease.
    ///
    /// # Errors
    /// Something is missing or is not what it should be.
    pub(super) fn read(dir: &LeaseDir) -> Result<Self, SshError> {
        let folder = Path::new(dir.path());
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|source| SshError::Keys { path, source })
        };
        let bad = |source: Box<dyn std::error::Error + Send + Sync>| SshError::BadKeys {
            folder: folder.to_owned(),
            source,
        };
        let certificates = |pem: &[u8]| {
            CertificateDer::pem_slice_iter(pem)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| bad(error.into()))
        };
        let mut roots = RootCertStore::empty();
        for authority in certificates(&read("ca.pem")?)? {
            roots.add(authority).map_err(|error| bad(error.into()))?;
        }
        Ok(Self {
            roots,
            certificates: certificates(&read("cert.pem")?)?,
            key: PrivateKeyDer::from_pem_slice(&read("key.pem")?)
                .map_err(|error| bad(error.into()))?,
        })
    }
}

/// Connects to the machine's SSH server.
///
/// # Errors
/// It cannot be reached, or one side does not take the other's certificate.
pub(super) async fn connect(endpoint: Endpoint) -> Result<TlsStream<TcpStream>, SshError> {
    let at = endpoint.address();
    let unreachable = |source| SshError::Connect {
        at: at.clone(),
        source,
    };
    let name = ServerName::try_from(endpoint.host.clone())
        .map_err(|error| unreachable(std::io::Error::other(error)))?;
    let Keys {
        roots,
        certificates,
        key,
    } = endpoint.keys;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map(|config| config.with_root_certificates(roots))
        .and_then(|config| config.with_client_auth_cert(certificates, key))
        .map_err(|error| SshError::Tls(std::io::Error::other(error)))?;
    config.alpn_protocols = vec![endpoint.alpn.clone().into_bytes()];
    let connecting = async {
        let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
            .await
            .map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let tls = TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .map_err(SshError::Tls)?;
        // A machine that knows nothing of it would take what comes for requests to Docker.
        if tls.get_ref().1.alpn_protocol() != Some(endpoint.alpn.as_bytes()) {
            return Err(SshError::NotOffered);
        }
        Ok(tls)
    };
    timeout(LIMIT, connecting)
        .await
        .unwrap_or_else(|_| Err(unreachable(std::io::ErrorKind::TimedOut.into())))
}

/// Brings what `input` has to the machine's SSH server, and its answers to `output`, until the machine has
/// ended.
///
/// # Errors
/// As [`connect`].
pub(crate) async fn pipe(
    endpoint: Endpoint,
    mut input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> Result<(), SshError> {
    let (mut reader, mut writer) = tokio::io::split(connect(endpoint).await?);
    let upward = async {
        let copied = tokio::io::copy(&mut input, &mut writer).await;
        // The end of the input is told; what the machine still says is awaited.
        copied.and(writer.shutdown().await)
    };
    let downward = async {
        tokio::io::copy(&mut reader, &mut output).await?;
        output.flush().await
    };
    tokio::pin!(upward, downward);
    // Which of the two broke matters to nobody: the SSH client at the other end tells what it misses.
    tokio::select! {
        ended = &mut downward => ended,
        ended = &mut upward => match ended {
            Ok(()) => downward.await,
            broken => broken,
        },
    }
    .map_err(|_| SshError::BrokeOff)
}
