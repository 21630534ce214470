//! A proxy between guests and servers outside.

use axum::http::Uri;
use guest_protocol::Proxy;
use serde::{Deserialize, Serialize};

use crate::config::error::Faults;

/// Table `[site.proxy]`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyConfig {
    /// For `http://`; its URL.
    pub http: Option<String>,
    /// For `https://`; its URL.
    pub https: Option<String>,
    /// Hosts, domains and ranges that are reached without it.
    pub except: Vec<String>,
}

impl std::fmt::Debug for ProxyConfig {
    /// Without the URLs: there may be a password in them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyConfig")
            .field("http", &self.http.is_some())
            .field("https", &self.https.is_some())
            .field("except", &self.except)
            .finish()
    }
}

/// Never by a proxy: the machine itself, and its containers among themselves.
const OWN: [&str; 2] = ["localhost", "127.0.0.0/8"];

impl ProxyConfig {
    /// What guests are told; `None` when there is no proxy. A mirror is nearer than the proxy.
    pub(super) fn for_guests(&self, mirrors: &[String]) -> Option<Proxy> {
        if self.http.is_none() && self.https.is_none() {
            return None;
        }
        let mirrors = mirrors.iter().filter_map(|mirror| {
            let url = mirror.parse::<Uri>().ok()?;
            url.host().map(str::to_owned)
        });
        let mut except: Vec<String> = OWN.map(str::to_owned).into();
        for host in mirrors.chain(self.except.iter().cloned()) {
            if !except.contains(&host) {
                except.push(host);
            }
        }
        Some(Proxy {
            http: self.http.clone(),
            https: self.https.clone(),
            except,
        })
    }

    pub(super) fn validate(&self, faults: &mut Faults) {
        for (key, url) in [
            ("site.proxy.http", &self.http),
            ("site.proxy.https", &self.https),
        ] {
            let Some(url) = url else { continue };
            let url = url.parse::<Uri>().ok();
            let good = url.as_ref().is_some_and(|url| {
                let scheme = matches!(url.scheme_str(), Some("http" | "https"));
                scheme
                    && url.host().is_some_and(|host| !host.is_empty())
                    && matches!(url.path(), "" | "/")
            });
            // The value stays out of the message: there may be a password in it.
            if !good {
                faults.add(
                    key,
                    "is no URL of a proxy, such as \"http://proxy.example.org:3128\"",
                );
            }
            let host = url.as_ref().and_then(Uri::host).unwrap_or_default();
            let is_loopback = host
                .parse::<std::net::Ipv4Addr>()
                .is_ok_and(|ip| ip.is_loopback());
            if is_loopback || host == "localhost" {
                faults.add(
                    key,
                    format!("names {host}, which inside a guest means the guest itself"),
                );
            }
        }
        if self.http.is_none() && self.https.is_none() && !self.except.is_empty() {
            faults.add(
                "site.proxy.except",
                "says what goes without a proxy, and there is none: set `site.proxy.http` or \
                 `site.proxy.https`",
            );
        }
        for (index, host) in self.except.iter().enumerate() {
            let odd = |byte: u8| byte.is_ascii_whitespace() || matches!(byte, b',' | b'"' | b'\\');
            if host.is_empty() || host.contains("://") || host.bytes().any(odd) {
                faults.add(
                    format!("site.proxy.except[{index}]"),
                    format!(
                        "is `{host}`; it takes a host, a domain or a range, such as \".example.org\" or \
                         \"10.0.0.0/8\""
                    ),
                );
            }
        }
    }
}
