//! Asks an issuer for its keys: over HTTPS only, within a time and a size, following no redirection, and through
//! the site's proxy where there is one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::keys::Keys;
use super::proxy::{Proxies, ProxyError};

/// How long the issuer may take for all of it.
const LIMIT: Duration = Duration::from_secs(10);
/// No issuer has so much to say.
const MAX_BYTES: usize = 256 * 1024;

/// Where the keys of an issuer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where exactly.
    pub place: Place,
    /// The only authorities that stand for it (PEM); without the file, those of the system.
    pub ca_file: Option<PathBuf>,
}

/// Where exactly the keys of an issuer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Where it says, in `.well-known/openid-configuration`.
    Discovered,
    /// At this address.
    Url(String),
    /// In this file, which somebody else keeps up to date.
    File(PathBuf),
}

/// The keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A file cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A file of authorities has none.
    #[error("{path} holds no certificate of an authority", path = path.display())]
    NoAuthority {
        /// Which.
        path: PathBuf,
    },
    /// The system has none.
    #[error(
        "this system has no certificates of authorities; name the issuer's with `oidc.ca_file`"
    )]
    NoRoots,
    /// The address is none.
    #[error("`{0}` is not an address that begins with https://")]
    Address(String),
    /// Nobody is there.
    #[error("cannot connect to {0}")]
    Connect(String, #[source] std::io::Error),
    /// It broke.
    #[error("{0} gives no answer that could be read")]
    Http(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// It says something else.
    #[error("{0} answers {1}")]
    Status(String, StatusCode),
    /// It takes too long.
    #[error("the issuer takes longer than 10 s")]
    Slow,
    /// What it says makes no sense.
    #[error("what {0} answers cannot be used: {1}")]
    Answer(String, &'static str),
    /// The way there cannot be taken.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The library refuses.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

/// Asks one issuer.
pub(super) struct Fetcher {
    issuer: String,
    place: Place,
    proxies: Proxies,
    tls: Arc<ClientConfig>,
}

/// What of an issuer's description matters.
#[derive(Deserialize)]
struct Description {
    issuer: String,
    jwks_uri: String,
}

impl Fetcher {
    pub(super) fn new(
        issuer: String,
        source: Source,
        proxies: Proxies,
    ) -> Result<Self, FetchError> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = source.ca_file {
            let pem = std::fs::read(&path).map_err(|source| FetchError::Unreadable {
                path: path.clone(),
                source,
            })?;
            let certificates = CertificateDer::pem_slice_iter(&pem).flatten();
            if roots.add_parsable_certificates(certificates).0 == 0 {
                return Err(FetchError::NoAuthority { path });
            }
        } else if !matches!(source.place, Place::File(_)) {
            let found = rustls_native_certs::load_native_certs();
            if roots.add_parsable_certificates(found.certs).0 == 0 {
                return Err(FetchError::NoRoots);
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            issuer,
            place: source.place,
            proxies,
            tls: Arc::new(tls),
        })
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The keys as they are now.
    pub(super) async fn fetch(&self) -> Result<Keys, FetchError> {
        let fetched = tokio::time::timeout(LIMIT, self.read()).await;
        let (from, bytes) = fetched.map_err(|_| FetchError::Slow)??;
        Keys::from_jwks(&bytes).map_err(|what| FetchError::Answer(from, what))
    }

    async fn read(&self) -> Result<(String, Vec<u8>), FetchError> {
        let url = match &self.place {
            Place::File(path) => {
                let read = tokio::fs::read(path).await;
                let bytes = read.map_err(|source| FetchError::Unreadable {
                    path: path.clone(),
                    source,
                })?;
                return Ok((path.display().to_string(), bytes));
            }
            Place::Url(url) => url.clone(),
            Place::Discovered => self.discover().await?,
        };
        let bytes = self.get(&url).await?;
        Ok((url, bytes))
    }

    async fn discover(&self) -> Result<String, FetchError> {
        let issuer = self.issuer.trim_end_matches('/');
        let url = format!("{issuer}/.well-known/openid-configuration");
        let bytes = self.get(&url).await?;
        let description: Description = serde_json::from_slice(&bytes)
            .map_err(|_| FetchError::Answer(url.clone(), "it is no description of an issuer"))?;
        if description.issuer != self.issuer {
            let what = "it is the description of another issuer than `oidc.issuer` names";
            return Err(FetchError::Answer(url, what));
        }
        Ok(description.jwks_uri)
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        let (host, port, path) = https(url)?;
        let connect = |error| FetchError::Connect(url.to_owned(), error);
        let broken = |error: Box<dyn std::error::Error + Send + Sync>| {
            FetchError::Http(url.to_owned(), error)
        };
        let name =
            ServerName::try_from(host.clone()).map_err(|_| FetchError::Address(url.to_owned()))?;
        let stream = match self.proxies.to(&host, port) {
            Some(proxy) => proxy.tunnel(&host, port).await,
            None => TcpStream::connect((host.as_str(), port)).await,
        };
        let stream = stream.map_err(connect)?;
        let connector = TlsConnector::from(self.tls.clone());
        let stream = connector.connect(name, stream).await.map_err(connect)?;
        let request = Request::get(path)
            .header(header::HOST, authority(&host, port))
            .header(header::ACCEPT, "application/json")
            .header(
                header::USER_AGENT,
                concat!("remote-dockerd/", env!("CARGO_PKG_VERSION")),
            )
            .body(Empty::<Bytes>::new())
            .map_err(|error| broken(error.into()))?;
        let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(error.into()))?;
        // The set ends the driver, and with it the connection, when this future ends.
        let mut drivers = JoinSet::new();
        drivers.spawn(driver);
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| broken(error.into()))?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(url.to_owned(), answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
        Ok(body.map_err(broken)?.to_bytes().to_vec())
    }
}

/// Host, port and path of an address with https.
pub(crate) fn https(url: &str) -> Result<(String, u16, String), FetchError> {
    let bad = || FetchError::Address(url.chars().take(200).collect());
    let uri: Uri = url.parse().map_err(|_| bad())?;
    if uri.scheme_str() != Some("https") || url.contains(['@', '#']) {
        return Err(bad());
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
    let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let path = uri.path_and_query().map_or("/", |it| it.as_str());
    let host = bare.unwrap_or(host).to_owned();
    Ok((host, uri.port_u16().unwrap_or(443), path.to_owned()))
}

pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else if port == 443 {
        host.to_owned()
    } else {
        format!("{host}:{port}")
    }
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher")
            .field("issuer", &self.issuer)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}
