//! TLS for the API: which certificate is shown, and that it is a good one as long as the server runs.
//!
//! It comes from files that the operator names ([`given`]), read again when they change, or from an authority
//! of this server's own ([`own`]), which is made at the first start and kept in the state folder; the
//! certificate below it lives in memory only and is made anew long before it ends. Connections that are
//! there keep the one they were begun with.
//!
//! TLS 1.2 and 1.3 only: rustls speaks nothing older.

mod given;
mod inspect;
mod own;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::pki::{PkiError, SanName};
use crate::words::in_one_line;
use given::Given;
use own::Own;

pub use inspect::{Inspection, inspect};
pub use own::{CA_FILE, CA_KEY_FILE};

/// How often it is looked whether another certificate is to be shown.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// There is no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}", path = path.display())]
    NotWritable {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// What should be a certificate and its key is none.
    #[error(
        "{cert} and {key} cannot be used for TLS: {what}",
        cert = cert.display(),
        key = key.display()
    )]
    Malformed {
        /// The certificate.
        cert: PathBuf,
        /// Its key.
        key: PathBuf,
        /// What is wrong with them.
        what: String,
    },
    /// The authority's certificate is there without its key.
    #[error(
        "the key {key} of the API's authority is missing: put it back, or delete {cert} to get a new \
         authority at the next start, whose certificate every client must then be given",
        cert = cert.display(),
        key = key.display()
    )]
    NoKey {
        /// The certificate.
        cert: PathBuf,
        /// Where its key should be.
        key: PathBuf,
    },
    /// Others can read the authority's key.
    #[error(
        "the key {path} of the API's authority has mode {mode:04o}, so others can get at it: delete it and \
         the certificate beside it to get a new authority at the next start, or, if nobody has seen it, \
         run `chmod 600 {path}`",
        path = path.display()
    )]
    TooOpen {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The authority has ended.
    #[error(
        "the API's authority {path} ended at {at}: delete it and its key to get a new one at the next \
         start, and give its certificate to the clients",
        path = path.display()
    )]
    Ended {
        /// Its certificate.
        path: PathBuf,
        /// When.
        at: OffsetDateTime,
    },
    /// A certificate cannot be made.
    #[error("a certificate for the API cannot be made")]
    Pki(#[from] PkiError),
    /// The library refuses.
    #[error("TLS cannot be set up")]
    Rustls(#[from] rustls::Error),
}

/// Where certificates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Files of the operator.
    Given {
        /// The certificate and those between it and its authority (PEM).
        cert: PathBuf,
        /// Its key (PEM).
        key: PathBuf,
    },
    /// An authority of this server's own.
    Own {
        /// The state folder.
        folder: PathBuf,
        /// What clients call the server.
        names: Vec<SanName>,
    },
}

/// What connections are begun with, and whoever sees to it that it stays good.
#[derive(Debug)]
pub struct Tls {
    config: Arc<ServerConfig>,
    keeper: Keeper,
}

/// Looks after the certificate. It is the only one who changes which is shown.
#[derive(Debug)]
pub struct Keeper {
    source: Source,
    shown: Arc<Shown>,
    /// When what is shown begins and ends.
    validity: (OffsetDateTime, OffsetDateTime),
    /// What was warned of last, so that each thing is told once.
    told: Option<String>,
}

#[derive(Debug)]
enum Source {
    Given(Given),
    Own(Box<Own>),
}

/// A certificate, ready to be shown.
struct Material {
    key: Arc<CertifiedKey>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

struct Shown(RwLock<Arc<CertifiedKey>>);

impl Tls {
    /// Reads or makes what is to be shown; `now` is wall time.
    ///
    /// # Errors
    /// When there is no certificate that could be used.
    pub fn open(origin: Origin, now: OffsetDateTime) -> Result<Self, TlsError> {
        let (source, material) = match origin {
            Origin::Given { cert, key } => {
                let (given, material) = Given::open(cert, key)?;
                (Source::Given(given), material)
            }
            Origin::Own { folder, names } => {
                let (own, material) = Own::open(&folder, names, now)?;
                (Source::Own(Box::new(own)), material)
            }
        };
        let shown = Arc::new(Shown(RwLock::new(material.key.clone())));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(shown.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut keeper = Keeper {
            source,
            shown,
            validity: (material.not_before, material.not_after),
            told: None,
        };
        keeper.tell(trouble(keeper.validity, now));
        Ok(Self {
            config: Arc::new(config),
            keeper,
        })
    }

    /// What connections are begun with.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Keeps the certificate good until `stop`.
    pub async fn keep(self, clock: Arc<dyn Clock>, stop: CancellationToken) {
        let mut keeper = self.keeper;
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            keeper.look(clock.wall());
        }
    }
}

impl Keeper {
    /// Shows another certificate if there is one to show; `now` is wall time.
    fn look(&mut self, now: OffsetDateTime) {
        let found = match &mut self.source {
            Source::Given(given) => given.look(now),
            Source::Own(own) => own.look(now),
        };
        match found {
            Ok(Some(material)) => {
                self.validity = (material.not_before, material.not_after);
                self.shown.set(material.key);
                tracing::info!(
                    "the API shows a new certificate, good until {}",
                    self.validity.1
                );
                self.tell(trouble(self.validity, now));
            }
            Ok(None) => self.tell(trouble(self.validity, now)),
            // What was good goes on being shown.
            Err(error) => self.tell(Some(in_one_line(&error))),
        }
    }

    fn tell(&mut self, trouble: Option<String>) {
        if let Some(trouble) = &trouble
            && self.told.as_ref() != Some(trouble)
        {
            tracing::warn!("the API's certificate: {trouble}");
        }
        self.told = trouble;
    }
}

/// What clients will not like about a certificate that begins and ends so.
fn trouble(
    (begins, ends): (OffsetDateTime, OffsetDateTime),
    now: OffsetDateTime,
) -> Option<String> {
    if now >= ends {
        Some(format!("it ended at {ends}"))
    } else if now < begins {
        Some(format!("it begins at {begins} only"))
    } else {
        None
    }
}

/// Makes a certificate and its key ready; what is wrong with them otherwise.
fn material(chain_pem: &[u8], key_pem: &[u8]) -> Result<Material, String> {
    let chain = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let Some(leaf) = chain.first() else {
        return Err("there is no certificate in the first".to_owned());
    };
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf)
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let not_before = parsed.validity().not_before.to_datetime();
    let not_after = parsed.validity().not_after.to_datetime();
    let key = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|error| format!("the key cannot be read: {error}"))?;
    let provider = rustls::crypto::ring::default_provider();
    let key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| error.to_string())?;
    Ok(Material {
        key: Arc::new(key),
        not_before,
        not_after,
    })
}

impl Shown {
    fn set(&self, key: Arc<CertifiedKey>) {
        // No code panics while it holds the lock.
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
    }

    fn get(&self) -> Arc<CertifiedKey> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown(..)")
    }
}
