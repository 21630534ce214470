//! Which settings are refused, and what guests are told.

use super::super::{Config, ConfigError};
use super::*;
use std::path::Path;

fn parse(text: &str) -> Result<Config, ConfigError> {
    let config = Config::from_toml(text, Path::new("test.toml"))?;
    config.validate()?;
    Ok(config)
}

/// An authority's certificate, in a file that lasts as long as the folder.
fn authority(folder: &tempfile::TempDir) -> String {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, params.self_signed(&key).unwrap().pem()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_site_without_settings_tells_guests_nothing() {
    assert_eq!(
        parse("").unwrap().site.for_guests().unwrap(),
        Site::default()
    );
}

#[test]
fn all_that_can_be_set_reaches_guests() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority(&folder);
    let text = format!(
        r#"
        [site]
        registry_mirrors = ["http://10.1.2.3:5000", "https://mirror.example.org/"]
        insecure_registries = ["registry.lan:5000", "10.9.0.0/16"]
        reach_on_host = ["192.168.1.10:5000"]
        mtu = 1400
        address_pools = [{{ base = "10.200.0.0/16", size = 24 }}]
        container_logs = {{ max_size = "10m", max_files = 3 }}
        ulimits = {{ nofile = {{ soft = 1024, hard = 4096 }} }}

        [[site.ca]]
        file = "{ca}"
        registries = ["registry.lan:5000"]

        [site.proxy]
        http = "http://user:secret@proxy.example.org:3128"
        except = [".example.org"]
        "#
    );
    let config = parse(&text).unwrap();
    let mut site = config.site.for_guests().unwrap();
    let certificates = std::mem::take(&mut site.live.authorities[0].certificates);
    assert_eq!(
        certificates,
        [std::fs::read_to_string(&ca).unwrap().replace('\r', "")]
    );
    insta::assert_snapshot!(serde_json::to_string_pretty(&site).unwrap());
    // What is printed may land in a log.
    assert!(!format!("{config:?} {site:?}").contains("secret"));
}

#[test]
fn all_faults_are_told_at_once_with_what_would_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("none.pem");
    let text = format!(
        r#"
        [site]
        registry_mirrors = ["mirror.example.org"]
        insecure_registries = ["https://registry.lan"]
        reach_on_host = ["127.0.0.1:5000", "10.213.0.9:5000", "192.168.1.10:0"]
        mtu = 9000
        address_pools = [
            {{ base = "10.213.128.0/17", size = 24 }},
            {{ base = "10.200.0.0/16", size = 8 }},
            {{ base = "10.200.4.0/24", size = 26 }},
        ]
        container_logs = {{ max_size = "lots", max_files = 0 }}
        ulimits = {{ files = {{ soft = 2, hard = 1 }} }}

        [[site.ca]]
        file = "relative.pem"

        [[site.ca]]
        file = "{}"
        registries = ["a/b"]

        [site.proxy]
        http = "user:secret@proxy"
        https = "http://127.0.0.1:3128"
        except = ["a,b"]
        "#,
        file.display()
    );
    let error = parse(&text).unwrap_err().to_string();
    assert!(!error.contains("secret"));
    insta::assert_snapshot!(error.replace(file.to_str().unwrap(), "FILE"));
}

#[test]
fn exceptions_without_a_proxy_and_a_host_without_a_way_to_it_are_refused() {
    let error = parse(
        "network.uplink = 'none'\nsite.reach_on_host = ['192.168.1.10:5000']\nsite.proxy.except = ['a']",
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("`site.reach_on_host[0]` can never be reached"),
        "{error}"
    );
    assert!(error.contains("`site.proxy.except`"), "{error}");
}

#[test]
fn more_than_an_activation_can_carry_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let one = std::fs::read_to_string(authority(&folder)).unwrap();
    let path = folder.path().join("bundle.pem");
    std::fs::write(&path, one.repeat(MOST_BYTES / one.len() + 1)).unwrap();
    let text = format!("site.ca = [{{ file = '{}' }}]", path.display());
    let error = parse(&text).unwrap_err().to_string();
    assert!(error.contains("not a bundle of everybody's"), "{error}");
}
