//! Who may speak to this guest's Docker: the holder of a certificate of this guest's own CA.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

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
pub(crate) fn server_config(
    cert_pem: &str,
    client_ca_pem: &str,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(client_ca_pem, "client CA")? {
        roots.add(certificate).map_err(TlsError::ClientCa)?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(TlsError::Verifier)?;
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .map_err(TlsError::Certificate)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(cert_pem, "certificate")?, key)
        .map_err(TlsError::Certificate)
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    found
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or(TlsError::NotACertificate(what))
}
