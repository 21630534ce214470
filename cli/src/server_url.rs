//! Where the server is.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;

/// Where a server on this machine listens unless it is told otherwise.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:7420";

/// The address of a server: host, port and the path that its API lies under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerUrl {
    is_tls: bool,
    /// Name or address; an IPv6 address stands without brackets.
    host: String,
    port: u16,
    /// Empty, or a path that begins with a slash and does not end with one.
    prefix: String,
}

/// The text is not the address of a server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerUrlError {
    #[error("`{0}` is not a URL of the form https://HOST:PORT")]
    Malformed(String),
    #[error("the server's URL has the scheme `{0}`; there are `https` and `http`")]
    Scheme(String),
    // The text is not repeated: it may hold a password.
    #[error("the server's URL holds a user name or a password; a token belongs elsewhere")]
    Credentials,
    #[error("the server's URL holds a query; only a path may follow the host")]
    Query,
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('@') {
            return Err(ServerUrlError::Credentials);
        }
        let malformed = || ServerUrlError::Malformed(text.chars().take(200).collect());
        // hyper drops a fragment in silence, which would hide a mistake.
        if text.contains('#') {
            return Err(malformed());
        }
        let uri: Uri = text.parse().map_err(|_| malformed())?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(other) => return Err(ServerUrlError::Scheme(other.to_owned())),
            None => return Err(malformed()),
        };
        if uri.query().is_some() {
            return Err(ServerUrlError::Query);
        }
        let written = uri.host().unwrap_or_default();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        // Read here, as hyper takes a port that it cannot read for none.
        let port = match authority.strip_prefix(written) {
            Some("") if is_tls => 443,
            Some("") => 80,
            Some(rest) => rest
                .strip_prefix(':')
                .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|port| port.parse().ok())
                .filter(|&port| port != 0)
                .ok_or_else(malformed)?,
            None => return Err(malformed()),
        };
        let host = written
            .strip_prefix('[')
            .and_then(|inner| inner.strip_suffix(']'))
            .unwrap_or(written);
        if host.is_empty() {
            return Err(malformed());
        }
        Ok(Self {
            is_tls,
            host: host.to_owned(),
            port,
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl ServerUrl {
    /// Whether it is spoken to in TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Whether others could read what is sent.
    pub(crate) fn is_open(&self) -> bool {
        !self.is_tls && !self.is_loopback()
    }

    /// Name or address to connect to.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// TCP port to connect to.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Host and port as the `Host` header has them.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The path of a call, such as `/v1/leases`, below this server's own path.
    pub(crate) fn path(&self, call: &str) -> String {
        format!("{}{call}", self.prefix)
    }

    /// Whether what is sent stays on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self
                .host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for (text, shown) in [
            (DEFAULT_URL, "http://127.0.0.1:7420"),
            ("http://build.example", "http://build.example:80"),
            ("http://build.example:8080/", "http://build.example:8080"),
            ("http://[::1]:7420/docker/", "http://[::1]:7420/docker"),
            ("https://build.example", "https://build.example:443"),
            ("HTTPS://192.0.2.1:7420", "https://192.0.2.1:7420"),
        ] {
            let url: ServerUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(url.to_string().parse::<ServerUrl>().unwrap(), url);
        }
        let url: ServerUrl = "http://[::1]/docker/".parse().unwrap();
        assert_eq!(url.host(), "::1");
        assert_eq!(url.path("/v1/leases"), "/docker/v1/leases");
    }

    #[test]
    fn what_is_not_a_server_is_refused() {
        for text in [
            "",
            "localhost",
            "localhost:7420",
            "/v1",
            "http://",
            "http://:80",
            "http://host:",
            "http://host:0",
            "http://host:99999",
            "http://host:http",
            "http://host:+80",
            "http://host#x",
            "http://ho st",
            "http://host\n",
            "https://",
            "https://host:0",
            "tcp://host:1",
            "http://host?x=1",
            "http://user:secret@host",
        ] {
            assert!(text.parse::<ServerUrl>().is_err(), "{text}");
        }
        let error = "http://user:secret@host".parse::<ServerUrl>().unwrap_err();
        assert!(!error.to_string().contains("secret"));
    }

    #[test]
    fn what_others_could_read_is_told_from_the_rest() {
        for (text, open) in [
            ("http://localhost", false),
            ("http://127.9.9.9", false),
            ("http://[::1]", false),
            ("https://192.0.2.1", false),
            ("http://192.0.2.1", true),
            ("http://127.0.0.1.example", true),
        ] {
            assert_eq!(text.parse::<ServerUrl>().unwrap().is_open(), open, "{text}");
        }
    }
}
