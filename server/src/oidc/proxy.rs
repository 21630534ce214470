//! The way to an issuer through the site's proxy, as the environment names it. Bytes are TLS from end to end: the
//! proxy is asked for a tunnel (`CONNECT`, RFC 9110) and sees the issuer's name and port.

use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr};

use axum::http::Uri;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fetch::authority;

/// No proxy has so much to say before a tunnel begins.
const MOST_HEAD_BYTES: usize = 8 * 1024;

/// What the environment says about proxies, for addresses with https.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    through: Option<Proxy>,
    except: Vec<String>,
}

/// A proxy.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    host: String,
    port: u16,
    /// What it is shown, if it wants to know who asks.
    credential: Option<String>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Proxy({}:{})", self.host, self.port)
    }
}

/// The proxy that is named cannot be used. Its address may have a password in it and is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "`HTTPS_PROXY` is not of the form `http://HOST:PORT` or `http://USER:PASSWORD@HOST:PORT`, the only ones that \
     this server can use; set it so, leave it out, or name the issuer's host in `NO_PROXY`"
)]
pub struct ProxyError;

impl Proxies {
    /// From the values of `HTTPS_PROXY` and `NO_PROXY`.
    ///
    /// # Errors
    /// When the first names none that could be used.
    pub fn new(https_proxy: Option<&str>, no_proxy: Option<&str>) -> Result<Self, ProxyError> {
        let named = https_proxy.map(str::trim).filter(|named| !named.is_empty());
        let except = no_proxy.unwrap_or_default().split(',');
        let except = except.map(|name| name.trim().to_ascii_lowercase());
        Ok(Self {
            through: named.map(Proxy::parse).transpose()?,
            except: except.filter(|name| !name.is_empty()).collect(),
        })
    }

    /// The proxy through which this host is reached, if it is not reached directly.
    pub(super) fn to(&self, host: &str, port: u16) -> Option<&Proxy> {
        let is_except = |name: &String| covers(name, &host.to_ascii_lowercase(), port);
        let through = self.through.as_ref()?;
        (!self.except.iter().any(is_except)).then_some(through)
    }
}

/// Whether an entry of `NO_PROXY` is about this host: itself, a domain that it is in, or a range of IPv4
/// addresses, each perhaps with a port.
fn covers(entry: &str, host: &str, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    let is_address = host.parse::<IpAddr>().is_ok();
    // Colons without brackets are those of an address.
    let (name, only) = match entry.rsplit_once(':') {
        Some((name, digits)) if !name.contains(':') || name.ends_with(']') => {
            let Ok(only) = digits.parse::<u16>() else {
                return false;
            };
            (name, Some(only))
        }
        _ => (entry, None),
    };
    if only.is_some_and(|only| only != port) {
        return false;
    }
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if let Some((base, prefix)) = name.split_once('/') {
        return in_range(base, prefix, host).unwrap_or(false);
    }
    let domain = name.trim_start_matches("*.").trim_start_matches('.');
    let below = host.strip_suffix(domain);
    host == domain
        || (!is_address && !domain.is_empty() && below.is_some_and(|rest| rest.ends_with('.')))
}

fn in_range(base: &str, prefix: &str, host: &str) -> Option<bool> {
    let base: Ipv4Addr = base.parse().ok()?;
    let host: Ipv4Addr = host.parse().ok()?;
    let prefix: u32 = prefix.parse().ok()?;
    let mask = u32::MAX
        .checked_shl(32_u32.checked_sub(prefix)?)
        .unwrap_or(0);
    Some(u32::from(base) & mask == u32::from(host) & mask)
}

impl Proxy {
    fn parse(named: &str) -> Result<Self, ProxyError> {
        let named = if named.contains("://") {
            named.to_owned()
        } else {
            // As other programs read it.
            format!("http://{named}")
        };
        let uri: Uri = named.parse().map_err(|_| ProxyError)?;
        let address = uri.authority().filter(|_| uri.scheme_str() == Some("http"));
        let address = address.ok_or(ProxyError)?;
        let user = address.as_str().rsplit_once('@').map(|(user, _)| user);
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or(ProxyError)?;
        let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        Ok(Self {
            host: bare.unwrap_or(host).to_owned(),
            port: uri.port_u16().unwrap_or(80),
            credential: user.map(|user| STANDARD.encode(unescaped(user))),
        })
    }

    /// A connection through the proxy to this host, on which nothing was said yet.
    ///
    /// # Errors
    /// When the proxy is not there, or opens no tunnel.
    pub(super) async fn tunnel(&self, host: &str, port: u16) -> std::io::Result<TcpStream> {
        let refused = |what: String| Error::new(ErrorKind::ConnectionRefused, what);
        let place = format!("the proxy {}:{}", self.host, self.port);
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let mut stream =
            stream.map_err(|error| Error::new(error.kind(), format!("{place}: {error}")))?;
        let target = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let credential = self.credential.as_ref().map_or_else(String::new, |text| {
            format!("Proxy-Authorization: Basic {text}\r\n")
        });
        let host_header = authority(host, port);
        let ask = format!("CONNECT {target} HTTP/1.1\r\nHost: {host_header}\r\n{credential}\r\n");
        stream.write_all(ask.as_bytes()).await?;
        let mut head = Vec::new();
        // Byte by byte: what comes after the head is the issuer's.
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= MOST_HEAD_BYTES {
                return Err(refused(format!(
                    "{place} gives no answer that could be read"
                )));
            }
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return Err(refused(format!("{place} hangs up"))),
            }
        }
        let line = String::from_utf8_lossy(&head);
        let status = line
            .split_ascii_whitespace()
            .nth(1)
            .and_then(|code| code.parse::<u16>().ok());
        match status {
            Some(200..=299) => Ok(stream),
            Some(code) => Err(refused(format!("{place} answers {code}"))),
            None => Err(refused(format!(
                "{place} gives no answer that could be read"
            ))),
        }
    }
}

/// What stands in an address, without its `%41`.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        let code = others.get(..2).filter(|_| *first == b'%');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = others.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(https_proxy: &str, no_proxy: &str) -> Proxies {
        Proxies::new(Some(https_proxy), Some(no_proxy)).unwrap()
    }

    #[test]
    fn what_is_named_is_used_but_for_the_exceptions() {
        let all = proxies("http://proxy.example:3128", "");
        assert_eq!(
            format!("{:?}", all.to("issuer.example", 443).unwrap()),
            "Proxy(proxy.example:3128)"
        );
        assert!(Proxies::default().to("issuer.example", 443).is_none());
        assert!(proxies(" ", "").to("issuer.example", 443).is_none());
        for (no_proxy, host, port, direct) in [
            ("*", "issuer.example", 443, true),
            ("issuer.example", "issuer.example", 443, true),
            ("ISSUER.example", "Issuer.Example", 443, true),
            ("other, .example", "issuer.example", 443, true),
            ("*.example", "issuer.example", 443, true),
            ("example", "issuer.example", 443, true),
            ("ample", "issuer.example", 443, false),
            ("sub.issuer.example", "issuer.example", 443, false),
            ("issuer.example:443", "issuer.example", 443, true),
            ("issuer.example:8443", "issuer.example", 443, false),
            ("issuer.example:x", "issuer.example", 443, false),
            ("10.0.0.0/8", "10.1.2.3", 443, true),
            ("10.0.0.0/8", "11.1.2.3", 443, false),
            ("0.0.0.0/0", "11.1.2.3", 443, true),
            ("10.0.0.0/33", "10.1.2.3", 443, false),
            ("10.0.0.0/8", "issuer.example", 443, false),
            ("2.3", "10.1.2.3", 443, false),
            ("2001:db8::1", "2001:db8::1", 443, true),
            ("[2001:db8::1]:443", "2001:db8::1", 443, true),
            ("[2001:db8::1]:444", "2001:db8::1", 443, false),
            (",, .", "issuer.example", 443, false),
        ] {
            let through = proxies("http://p:1", no_proxy).to(host, port).is_some();
            assert_eq!(!through, direct, "{no_proxy} {host}");
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_told_without_its_password() {
        for bad in [
            "https://u:hunter2@p:1",
            "socks5://p:1080",
            "http://",
            "http:// p",
        ] {
            let error = Proxies::new(Some(bad), None).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let named = proxies("u%40x:hunter2@[::1]:3128", "");
        let through = named.to("issuer.example", 443).unwrap();
        assert_eq!(
            (
                through.host.as_str(),
                through.port,
                through.credential.as_deref()
            ),
            ("::1", 3128, Some(&*STANDARD.encode("u@x:hunter2")))
        );
        assert!(!format!("{named:?}").contains("hunter2"));
        assert_eq!(proxies("p", "").through.unwrap().port, 80);
    }
}
