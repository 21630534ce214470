//! Who may speak to this guest's Docker: the holder of a certificate of this guest's own CA.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

/// What a client wants of this guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The API of the Docker daemon.
    Docker,
    /// An SSH session.
    Ssh,
}

/// How TLS is ended, by what the client wants. The same certificates are shown and demanded.
#[derive(Clone)]
pub(crate) struct ServerConfigs {
    /// Has no protocols to choose from: what Docker's clients offer is theirs to know.
    docker: Arc<ServerConfig>,
    ssh: Arc<ServerConfig>,
}

impl ServerConfigs {
    #[cfg(test)]
    pub(crate) fn for_docker(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.docker)
    }

    /// Whoever does not ask for SSH wants Docker.
    pub(crate) fn wanted_by(&self, hello: &ClientHello<'_>) -> (Arc<ServerConfig>, Protocol) {
        let mut offered = hello.alpn().into_iter().flatten();
        if offered.any(|name| name == guest_protocol::SSH_ALPN) {
            (Arc::clone(&self.ssh), Protocol::Ssh)
        } else {
            (Arc::clone(&self.docker), Protocol::Docker)
        }
    }
}

/// The server's certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("the {0} is not PEM with one certificate or more")]
    NotACertificate(&'static str),
    #[error("the client CA cannot be trusted")]
    ClientCa(#[source] rustls::Error),
    #[error("clients cannot be verified")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    #[error("the certificate does not go with the key")]
    Certificate(#[source] rustls::Error),
}

/// Demands a client certificate that `client_ca_pem` signed, and trusts no other CA.
///
/// # Errors
/// [`TlsError`].
pub(crate) fn server_configs(
    cert_pem: &str,
    client_ca_pem: &str,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfigs, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(client_ca_pem, "client CA")? {
        roots.add(certificate).map_err(TlsError::ClientCa)?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(TlsError::Verifier)?;
    let mut docker = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .map_err(TlsError::Certificate)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(cert_pem, "certificate")?, key)
        .map_err(TlsError::Certificate)?;
    // Docker's clients do not resume sessions. To make tickets for them is work on the way to each first answer, and
    // whoever holds the lease now is asked for its certificate each time.
    docker.send_tls13_tickets = 0;
    docker.session_storage = Arc::new(NoServerSessionStorage {});
    let mut ssh = docker.clone();
    ssh.alpn_protocols = vec![guest_protocol::SSH_ALPN.to_vec()];
    Ok(ServerConfigs {
        docker: Arc::new(docker),
        ssh: Arc::new(ssh),
    })
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    found
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or(TlsError::NotACertificate(what))
}
