//! One question over TLS, asked without a program that would have to be started first.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(60);

/// What a client shows, and whom it trusts; PEM.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Credentials<'a> {
    pub(crate) ca: &'a str,
    pub(crate) certificate: &'a str,
    pub(crate) key: &'a str,
}

/// Asks for `path` on a connection of its own, and answers the status line.
pub(crate) fn get(place: SocketAddr, credentials: Credentials<'_>, path: &str) -> String {
    let name = ServerName::from(place.ip());
    let session = ClientConnection::new(Arc::new(config(credentials)), name).expect("a session");
    let tcp = TcpStream::connect(place).expect("a connection");
    tcp.set_read_timeout(Some(LIMIT)).expect("a limit");
    let mut stream = StreamOwned::new(session, tcp);
    let request = format!("GET {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a listener");
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().map(str::to_owned);
    status.unwrap_or_else(|| panic!("no answer to {path}: {read:?}"))
}

fn config(credentials: Credentials<'_>) -> ClientConfig {
    let certificates = |pem: &str| -> Vec<CertificateDer<'static>> {
        let read = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>();
        read.expect("certificates")
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates(credentials.ca) {
        roots.add(authority).expect("an authority");
    }
    let key = PrivateKeyDer::from_pem_slice(credentials.key.as_bytes()).expect("a key");
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(credentials.certificate), key)
        .expect("a certificate and its key")
}
