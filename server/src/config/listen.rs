//! The API's listener.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;

use super::error::Faults;
use crate::pki::SanName;

/// Table `[http]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address and port of the API.
    pub listen: SocketAddr,
    /// What clients call the server, beside what else is known: for its own certificate.
    pub names: Vec<String>,
    /// How the API is encrypted.
    pub tls: TlsConfig,
    /// Whether the API may go without TLS though `listen` is an address that others on the network reach:
    /// right behind a proxy that ends TLS.
    pub allow_plaintext_on_network: bool,
    /// Size up to which a request's body is read, in bytes.
    pub max_body_bytes: usize,
    /// Whether `/metrics` is answered to callers without a token.
    pub metrics_public: bool,
}

/// Table `[http.tls]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Whether the API speaks TLS; [`HttpConfig::speaks_tls`] knows the default.
    enabled: Option<bool>,
    /// Certificate and those between it and its authority, in the place of the server's own.
    cert_file: Option<PathBuf>,
    /// Its key.
    key_file: Option<PathBuf>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7420)),
            names: Vec::new(),
            tls: TlsConfig::default(),
            allow_plaintext_on_network: false,
            max_body_bytes: 64 * 1024,
            metrics_public: false,
        }
    }
}

impl HttpConfig {
    /// Whether the API speaks TLS: where others on the network reach it, unless the file says that it
    /// need not; elsewhere, when the file asks for it.
    #[must_use]
    pub fn speaks_tls(&self) -> bool {
        self.tls.enabled.unwrap_or_else(|| {
            let is_reached = !self.listen.ip().is_loopback();
            self.tls.cert_file.is_some() || is_reached && !self.allow_plaintext_on_network
        })
    }

    /// The certificate and its key, if the file names them.
    #[must_use]
    pub fn tls_files(&self) -> Option<(PathBuf, PathBuf)> {
        self.tls.cert_file.clone().zip(self.tls.key_file.clone())
    }

    pub(super) fn validate(&self, faults: &mut Faults) {
        let is_reached = !self.listen.ip().is_loopback();
        if is_reached && !self.speaks_tls() && !self.allow_plaintext_on_network {
            faults.add(
                "http.tls.enabled",
                format!(
                    "is false, and others on the network can reach `http.listen` = {}: tokens could be \
                     read on the way. Leave it out, or accept the risk with \
                     `http.allow_plaintext_on_network = true`",
                    self.listen
                ),
            );
        }
        let files = [
            ("http.tls.cert_file", &self.tls.cert_file),
            ("http.tls.key_file", &self.tls.key_file),
        ];
        for (key, file) in files {
            match file {
                Some(file) if !file.is_absolute() => faults.add(key, "must be an absolute path"),
                None if files.iter().any(|(_, other)| other.is_some()) => {
                    faults.add(key, "is missing: a certificate and its key go together");
                }
                _ => {}
            }
        }
        for name in &self.names {
            if !SanName::from_host(name).is_valid() {
                faults.add(
                    "http.names",
                    format!(
                        "has `{name}`, which is no host name and no address; they stand without scheme, \
                         brackets and port, such as [\"builds.example.org\", \"192.0.2.7\"]"
                    ),
                );
            }
        }
        // Below, a request with a certificate request for a large RSA key would not fit.
        if !(16 * 1024..=16 * 1024 * 1024).contains(&self.max_body_bytes) {
            faults.add(
                "http.max_body_bytes",
                format!(
                    "is {}; allowed are 16384 (16 KiB) to 16777216 (16 MiB)",
                    self.max_body_bytes
                ),
            );
        }
    }
}
