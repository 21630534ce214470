//! TLS to the server: whom to trust, and what it means when that fails.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What begins a certificate that stands in a variable itself.
const PEM_BEGIN: &str = "-----BEGIN ";

/// Whom to trust, made ready when it is first needed: most commands connect once, some never.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trust {
    /// The only authorities that count; without any, those of this system.
    pinned: Option<Vec<CertificateDer<'static>>>,
    ready: Arc<OnceLock<Result<Arc<ClientConfig>, Unready>>>,
}

/// Nobody can be trusted.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Unready {
    #[error("this system has no certificates of authorities")]
    NoRoots,
    #[error("{0}")]
    Library(String),
}

/// What an authority's certificate was to be read from has none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaError {
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("it holds no certificate in PEM form")]
    Empty,
    #[error("a certificate in it cannot be understood")]
    Malformed(#[source] Box<dyn Error + Send + Sync>),
}

/// No TLS came about.
#[derive(Debug)]
pub(crate) struct TlsFailure {
    pub(crate) fault: TlsFault,
    pub(crate) source: Box<dyn Error + Send + Sync>,
}

/// Why, as far as there is something to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsFault {
    /// Nobody whom this program trusts stands for the server's certificate.
    Untrusted {
        /// Whether the user said whom to trust.
        pinned: bool,
    },
    /// The certificate has ended, or has not begun.
    Time,
    /// The certificate is for other names.
    Name,
    /// The other side does not speak TLS.
    NotTls,
    /// The other side hung up before there was any.
    Closed,
    /// There is nobody to trust.
    NoRoots,
    /// Anything else.
    Other,
}

impl Trust {
    /// Trusts only the authorities in `text`: PEM, or the path of a file that holds it.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn pinned(text: &str) -> Result<Self, CaError> {
        let pem = if text.trim_start().starts_with(PEM_BEGIN) {
            text.to_owned()
        } else {
            crate::config::read_bounded(Path::new(text)).map_err(CaError::Read)?
        };
        let malformed = |error: Box<dyn Error + Send + Sync>| CaError::Malformed(error);
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| malformed(error.into()))?;
        if certificates.is_empty() {
            return Err(CaError::Empty);
        }
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots
                .add(certificate.clone())
                .map_err(|error| malformed(error.into()))?;
        }
        Ok(Self {
            pinned: Some(certificates),
            ready: Arc::default(),
        })
    }

    /// Whether the user said whom to trust.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pinned.is_some()
    }

    fn config(&self) -> Result<Arc<ClientConfig>, Unready> {
        self.ready.get_or_init(|| self.make()).clone()
    }

    fn make(&self) -> Result<Arc<ClientConfig>, Unready> {
        let library = |error: rustls::Error| Unready::Library(error.to_string());
        let mut roots = RootCertStore::empty();
        match &self.pinned {
            Some(certificates) => {
                for certificate in certificates {
                    roots.add(certificate.clone()).map_err(library)?;
                }
            }
            None => {
                // What cannot be read among many matters only if nothing is left.
                let found = rustls_native_certs::load_native_certs();
                if roots.add_parsable_certificates(found.certs).0 == 0 {
                    return Err(Unready::NoRoots);
                }
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(library)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Begins TLS with the server that is called `host`.
    ///
    /// # Errors
    /// It is not that server, as far as can be told, or speaks no TLS.
    pub(crate) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, TlsFailure> {
        let config = self.config().map_err(|error| TlsFailure {
            fault: match error {
                Unready::NoRoots => TlsFault::NoRoots,
                Unready::Library(_) => TlsFault::Other,
            },
            source: error.into(),
        })?;
        let name = ServerName::try_from(host.to_owned()).map_err(|error| TlsFailure {
            fault: TlsFault::Name,
            source: error.into(),
        })?;
        TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|error| self.failure(error))
    }

    fn failure(&self, error: io::Error) -> TlsFailure {
        let inner = error.get_ref().and_then(|it| it.downcast_ref());
        let closed = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
        );
        let fault = match inner {
            Some(error) => self.fault(error),
            None if closed => TlsFault::Closed,
            None => TlsFault::Other,
        };
        TlsFailure {
            fault,
            source: error.into(),
        }
    }

    fn fault(&self, error: &rustls::Error) -> TlsFault {
        use CertificateError as Bad;
        match error {
            rustls::Error::InvalidMessage(_) => TlsFault::NotTls,
            rustls::Error::InvalidCertificate(bad) => match bad {
                Bad::UnknownIssuer | Bad::BadSignature => TlsFault::Untrusted {
                    pinned: self.is_pinned(),
                },
                Bad::Expired
                | Bad::ExpiredContext { .. }
                | Bad::NotValidYet
                | Bad::NotValidYetContext { .. } => TlsFault::Time,
                Bad::NotValidForName | Bad::NotValidForNameContext { .. } => TlsFault::Name,
                _ => TlsFault::Other,
            },
            _ => TlsFault::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_no_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let text = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Trust::pinned(file.to_str().unwrap())
        };
        assert!(matches!(text("").unwrap_err(), CaError::Empty));
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        assert!(matches!(text(&key).unwrap_err(), CaError::Empty));
        let rubbish = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(text(rubbish).unwrap_err(), CaError::Malformed(_)));
        assert!(matches!(
            Trust::pinned(rubbish).unwrap_err(),
            CaError::Malformed(_)
        ));
        assert!(matches!(
            Trust::pinned("/nonexistent").unwrap_err(),
            CaError::Read(_)
        ));
    }
}
