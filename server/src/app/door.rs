//! How clients come in: with TLS or without, and with which certificate.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{self, Config, OidcConfig};
use crate::http::{ApiState, Door, router, tls_only};
use crate::oidc::{FetchError, Issuers, Proxies, ProxyError};
use crate::pki::SanName;
use crate::tls::{Origin, Tls};

/// Where the API's certificate comes from, if the API speaks TLS.
pub(crate) fn tls_origin(config: &Config, state: &Path) -> Option<Origin> {
    if !config.http.speaks_tls() {
        return None;
    }
    Some(match config.http.tls_files() {
        Some((cert, key)) => Origin::Given { cert, key },
        None => Origin::Own {
            folder: state.to_owned(),
            names: names(config),
        },
    })
}

/// What clients elsewhere are told to call this server.
pub(crate) fn told_names(config: &Config) -> Vec<SanName> {
    let hosts = config.http.names.iter().cloned();
    let hosts = hosts.chain([config.relay.advertised_host()]);
    let mut names: Vec<SanName> = hosts.map(|host| SanName::from_host(&host)).collect();
    names.dedup();
    names
}

/// What clients may call this server. Those on this host come by loopback, and so do those of `ssh -L`.
fn names(config: &Config) -> Vec<SanName> {
    let listen = config.http.listen.ip();
    let listen = (!listen.is_unspecified()).then_some(SanName::Ip(listen));
    let advertised = config.relay.advertised_host();
    let hosts = config.http.names.iter().map(String::as_str);
    let hosts = hosts.chain([advertised.as_str(), "localhost", "127.0.0.1", "::1"]);
    let mut names = Vec::new();
    for name in hosts.map(SanName::from_host).chain(listen) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The CI systems whose tokens are taken; their keys are kept at hand from now on.
///
/// # Errors
/// When the certificate of an authority cannot be used. That an issuer cannot be reached is none.
pub(super) fn issuers(
    config: &Config,
    clock: &Arc<dyn Clock>,
    stop: &CancellationToken,
) -> Result<Issuers, FetchError> {
    let terms = config.oidc.iter().map(OidcConfig::terms);
    let issuers = Issuers::new(terms, &proxies(config)?, clock)?;
    issuers.keep(stop);
    Ok(issuers)
}

/// The proxies that the environment names, as far as anybody is to be asked.
///
/// # Errors
/// When it names one that cannot be used.
pub(crate) fn proxies(config: &Config) -> Result<Proxies, ProxyError> {
    if config.oidc.is_empty() {
        return Ok(Proxies::default());
    }
    let (https_proxy, no_proxy) = config::proxy_environment();
    Proxies::new(https_proxy.as_deref(), no_proxy.as_deref())
}

/// The API behind TLS, whose certificate is looked after from now on, or behind nothing.
pub(super) fn open(api: &Arc<ApiState>, tls: Option<Tls>) -> Door {
    let router = router(api.clone());
    let Some(tls) = tls else {
        return Door::plain(router);
    };
    let config = tls.config();
    tokio::spawn(tls.keep(api.clock.clone(), api.stopping.clone()));
    Door::tls(router, config, tls_only(api.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_all_names_that_clients_may_know_each_once() {
        let config: Config = toml::from_str(
            "http = { listen = '0.0.0.0:7420', names = ['build.example', '192.0.2.7'] }\n\
             relay = { listen_ip = '0.0.0.0', advertise = 'build.example' }",
        )
        .unwrap();
        let expected = [
            "build.example",
            "192.0.2.7",
            "localhost",
            "127.0.0.1",
            "::1",
        ];
        assert_eq!(names(&config), expected.map(SanName::from_host));
        let own = toml::from_str("http.listen = '192.0.2.9:7420'").unwrap();
        assert!(names(&own).contains(&SanName::from_host("192.0.2.9")));
    }

    #[test]
    fn files_that_are_named_are_used() {
        let origin = |text: &str| tls_origin(&toml::from_str(text).unwrap(), Path::new("/state"));
        assert_eq!(origin(""), None);
        assert!(matches!(
            origin("http.tls.enabled = true"),
            Some(Origin::Own { .. })
        ));
        assert!(matches!(
            origin("http.tls = { cert_file = '/c', key_file = '/k' }"),
            Some(Origin::Given { .. })
        ));
    }
}
