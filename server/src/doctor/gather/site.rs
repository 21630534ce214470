//! Looks at what the site's own settings name.

use std::time::Duration;

use axum::http::Uri;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::super::facts::{Kind, Named, Site};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, SiteConfig};
use crate::words::in_one_line;

/// How long a server that answers may take to do so.
const LIMIT: Duration = Duration::from_secs(3);

/// Reads the certificates and connects to each server once, to all at the same time.
pub(super) async fn gather(config: &Config) -> Site {
    Site {
        trusted: config.site.endings(),
        named: connect(named(&config.site)).await,
        now: SystemClock.wall(),
    }
}

/// Host and port of each, and never what else stands in a URL: there may be a password in it.
fn named(site: &SiteConfig) -> Vec<(Kind, String)> {
    let of_url = |kind, url: &String| Some((kind, place(url)?));
    let mirrors = site.registry_mirrors.iter();
    let mirrors = mirrors.filter_map(|url| of_url(Kind::Mirror, url));
    let proxies = [&site.proxy.http, &site.proxy.https].into_iter().flatten();
    let proxies = proxies.filter_map(|url| of_url(Kind::Proxy, url));
    let ports = site.reach_on_host.iter();
    let ports = ports.map(|place| (Kind::Port, place.to_string()));
    let mut named: Vec<(Kind, String)> = mirrors.chain(proxies).chain(ports).collect();
    named.sort();
    named.dedup();
    named
}

fn place(url: &str) -> Option<String> {
    let url = url.parse::<Uri>().ok()?;
    let default = if url.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    let port = url.port_u16().unwrap_or(default);
    Some(format!("{}:{port}", url.host()?))
}

async fn connect(named: Vec<(Kind, String)>) -> Vec<Named> {
    let mut asked = JoinSet::new();
    for (kind, place) in named {
        asked.spawn(async move {
            let answer = tokio::time::timeout(LIMIT, TcpStream::connect(&place)).await;
            let answer = match answer {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(in_one_line(&error)),
                Err(_) => Err(format!("no answer in {} s", LIMIT.as_secs())),
            };
            Named {
                kind,
                place,
                answer,
            }
        });
    }
    let mut named = asked.join_all().await;
    named.sort_by(|one, other| (one.kind, &one.place).cmp(&(other.kind, &other.place)));
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn servers_are_found_by_their_urls_and_asked() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed = {
            // Bound and not listened at, so that nobody else gets it meanwhile.
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            socket
        };
        let closed_at = closed.local_addr().unwrap();
        let mut site = SiteConfig {
            registry_mirrors: vec![format!("http://{open}"), format!("http://{closed_at}/")],
            ..SiteConfig::default()
        };
        site.proxy.http = Some(format!("http://somebody:secret@{open}"));
        site.proxy.https = site.proxy.http.clone();
        let named = connect(named(&site)).await;
        let of = |kind, place: std::net::SocketAddr| {
            let place = place.to_string();
            let found = named
                .iter()
                .filter(|it| it.kind == kind && it.place == place);
            let found: Vec<_> = found.map(|it| it.answer.is_ok()).collect();
            found
        };
        assert_eq!(named.len(), 3, "{named:?}");
        assert_eq!(of(Kind::Mirror, open), [true]);
        assert_eq!(of(Kind::Mirror, closed_at), [false]);
        assert_eq!(of(Kind::Proxy, open), [true]);
        assert!(!format!("{named:?}").contains("secret"));
    }

    #[test]
    fn a_url_without_a_port_means_that_of_its_scheme() {
        let place = |url| place(url).unwrap();
        assert_eq!(
            place("https://mirror.example.org"),
            "mirror.example.org:443"
        );
        assert_eq!(place("http://proxy.example.org/"), "proxy.example.org:80");
    }
}
