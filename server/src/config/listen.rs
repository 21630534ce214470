//! The API's listener.

use std::net::{Ipv4Addr, SocketAddr};

use serde::Deserialize;

use super::error::Faults;

/// Table `[http]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address and port of the API.
    pub listen: SocketAddr,
    /// Whether `listen` may be an address that others on the network reach, though the API speaks
    /// plain HTTP and tokens could be read on the way: right behind a proxy that ends TLS.
    pub allow_plaintext_on_network: bool,
    /// Size up to which a request's body is read, in bytes.
    pub max_body_bytes: usize,
    /// Whether `/metrics` is answered to callers without a token.
    pub metrics_public: bool,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7420)),
            allow_plaintext_on_network: false,
            max_body_bytes: 64 * 1024,
            metrics_public: false,
        }
    }
}

impl HttpConfig {
    pub(super) fn validate(&self, faults: &mut Faults) {
        if !self.listen.ip().is_loopback() && !self.allow_plaintext_on_network {
            faults.add(
                "http.listen",
                format!(
                    "is {}, which others on the network can reach, but the API speaks plain HTTP: \
                     tokens could be read on the way. Listen on 127.0.0.1 and let other hosts come by \
                     way of SSH (`ssh -L`), or accept the risk with \
                     `http.allow_plaintext_on_network = true`",
                    self.listen
                ),
            );
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
