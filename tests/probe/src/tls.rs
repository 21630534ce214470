//! A client of TLS that believes everybody, and shows whatever certificate it has.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use attack_probe::Heard;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, Stream};

use crate::deeds;

pub(crate) fn converse(
    mut tcp: TcpStream,
    identity: Option<&(String, String)>,
    say: &str,
) -> io::Result<Heard> {
    let config = config(identity).map_err(io::Error::other)?;
    let name = ServerName::from(tcp.peer_addr()?.ip());
    let mut session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut stream = Stream::new(&mut session, &mut tcp);
    let mut answer = [0; 200];
    // In TLS 1.3 the client is done with its handshake before the server has looked at its certificate, so
    // only an answer tells that it was let in.
    let heard = stream
        .write_all(say.as_bytes())
        .and_then(|()| stream.read(&mut answer));
    Ok(match heard {
        Ok(0) => Heard::Refusal("the other side hung up".to_owned()),
        Ok(length) => Heard::Answer(deeds::text(&answer[..length])),
        Err(error) => deeds::refusal(&error),
    })
}

fn config(
    identity: Option<&(String, String)>,
) -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible(provider)));
    let Some((certificate, key)) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    Ok(builder.with_client_auth_cert(chain, key)?)
}

/// An attacker does not mind whom they attack.
#[derive(Debug)]
struct Gullible(Arc<CryptoProvider>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
