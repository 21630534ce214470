//! What files are taken, and how the rest is refused.

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    let config = Config::from_toml(text, Path::new("test.toml"))?;
    config.validate()?;
    Ok(config)
}

fn faults(text: &str) -> Vec<String> {
    match parse(text) {
        Err(ConfigError::Faults(faults)) => faults.into_iter().map(|fault| fault.key).collect(),
        other => panic!("expected faults, got {other:?}"),
    }
}

/// The message and its sources, as the binary prints them.
fn message(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn an_empty_file_is_the_default_and_the_default_is_good() {
    assert_eq!(parse("").unwrap(), Config::default());
    let config = Config::default();
    assert_eq!(
        config.images_dir(),
        Path::new("/var/lib/remote-dockerd/images")
    );
    assert_eq!(config.relay.advertised_host(), "127.0.0.1");
    assert_eq!(config.relay.ports.as_range(), 23_760..=24_759);
}

#[test]
fn every_key_can_be_set() {
    let config = parse(include_str!("tests/full.toml")).unwrap();
    insta::assert_debug_snapshot!(config);
}

#[test]
fn all_faults_are_reported_at_once_with_their_keys() {
    let error = parse(include_str!("tests/faulty.toml")).unwrap_err();
    insta::assert_snapshot!(message(&error));
}

#[test]
fn a_misspelled_key_is_refused_with_its_line() {
    for text in [
        "stat_dir = '/x'",
        "[http]\nlisten_adress = '127.0.0.1:1'",
        "[sizes.small]\nvcpus = 1\nmemory_mib = 1024\ndisk = 3",
    ] {
        let error = parse(text).unwrap_err();
        assert!(
            matches!(error, ConfigError::Syntax { .. }),
            "{text}: {error:?}"
        );
    }
    let error = parse("[http]\nlisten_adress = '127.0.0.1:1'").unwrap_err();
    insta::assert_snapshot!(message(&error), @r"
    the configuration file test.toml cannot be understood
    TOML parse error at line 2, column 1
      |
    2 | listen_adress = '127.0.0.1:1'
      | ^^^^^^^^^^^^^
    unknown field `listen_adress`, expected one of `listen`, `names`, `tls`, `allow_plaintext_on_network`, `max_body_bytes`, `metrics_public`
    ");
}

#[test]
fn values_of_the_wrong_form_are_refused_with_what_is_expected() {
    for (text, expected) in [
        ("relay.ports = '24759-23760'", "expected two ports"),
        ("relay.ports = '80-443'", "expected two ports"),
        ("relay.ports = '23760'", "expected two ports"),
        ("network.guest_network = '10.213.0.0/24'", "expected a /16"),
        ("network.guest_network = '10.213.1.0/16'", "expected a /16"),
        ("network.egress = ['all']", "expected one of"),
        ("network.allow = [{ cidr = '10.1.2.3/24' }]", "10.1.2.0/24"),
        (
            "network.allow = [{ cidr = '10.1.2.0/24', ports = ['9-8'] }]",
            "expected a port",
        ),
        ("network.uplink = 'bridge'", "expected `veth` or `none`"),
        ("hypervisor.accelerator = 'xen'", "expected one of"),
        ("hypervisor.qemu_uids = 'root'", "two user ids from 1000"),
        ("hypervisor.qemu_uids = '0-65535'", "two user ids from 1000"),
        (
            "hypervisor.qemu_uids = '5000-4999'",
            "two user ids from 1000",
        ),
        (
            "hypervisor.qemu_uids = '5000-4294967295'",
            "two user ids from 1000",
        ),
        ("lease.max_ttl_s = -1", "expected u32"),
        ("http.listen = 'localhost'", "invalid socket address"),
    ] {
        let error = message(&parse(text).unwrap_err());
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn the_api_speaks_tls_wherever_others_reach_it_unless_told_otherwise() {
    for (text, speaks) in [
        ("", false),
        ("http.listen = '[::1]:7420'", false),
        ("http.tls.enabled = true", true),
        ("http.listen = '0.0.0.0:7420'", true),
        ("http.listen = '[::]:7420'", true),
        ("http.listen = '192.0.2.1:7420'", true),
        // Not what the system takes for its own, whatever it is in IPv4.
        ("http.listen = '[::ffff:127.0.0.1]:7420'", true),
        (
            "http = { listen = '0.0.0.0:7420', allow_plaintext_on_network = true }",
            false,
        ),
        (
            "http = { listen = '0.0.0.0:7420', allow_plaintext_on_network = true, tls.enabled = true }",
            true,
        ),
        (
            "http = { listen = '0.0.0.0:7420', allow_plaintext_on_network = true, tls.enabled = false }",
            false,
        ),
        ("http.tls = { cert_file = '/c', key_file = '/k' }", true),
    ] {
        assert_eq!(parse(text).unwrap().http.speaks_tls(), speaks, "{text}");
    }
    let open = "http = { listen = '0.0.0.0:7420', tls.enabled = false }";
    assert_eq!(faults(open), ["http.tls.enabled"]);
    assert_eq!(faults("http.tls.cert_file = '/c'"), ["http.tls.key_file"]);
    assert_eq!(
        faults("http.tls.key_file = 'k'"),
        ["http.tls.cert_file", "http.tls.key_file"]
    );
    assert_eq!(faults("http.names = ['a', 'https://b']"), ["http.names"]);
}

#[test]
fn there_is_a_user_for_each_machine() {
    let few = "hypervisor.qemu_uids = '5000-5002'\nlimits.max_vms = 4";
    assert_eq!(faults(few), ["hypervisor.qemu_uids"]);
    assert!(message(&parse(few).unwrap_err()).contains("\"5000-5003\" is enough"));
    assert!(parse("hypervisor.qemu_uids = '5000-5003'\nlimits.max_vms = 4").is_ok());
    assert!(parse("hypervisor.qemu_uids = 'shared'\nlimits.max_vms = 4").is_ok());
}

#[test]
fn a_policy_that_could_never_be_met_is_refused() {
    assert_eq!(
        faults("network = { uplink = 'none', egress = ['none', 'open'], default_egress = 'open' }"),
        ["network.egress", "network.default_egress"]
    );
    assert_eq!(
        faults("network = { uplink = 'none', allow = [{ cidr = '10.0.0.0/8' }] }"),
        ["network.allow"]
    );
    assert_eq!(faults("network.egress = []"), ["network.egress"]);
    let config = parse(
        "network = { default_egress = 'open', allow = [{ cidr = '10.1.2.0/24', ports = [443, \
         '8000-8999'], protocol = 'tcp' }, { cidr = '10.1.3.4/32' }] }",
    )
    .unwrap();
    assert_eq!(config.network.allow.len(), 2);
}

#[test]
fn clients_are_told_an_address_they_can_use() {
    assert_eq!(faults("relay.listen_ip = '0.0.0.0'"), ["relay.advertise"]);
    for bad in ["tcp://host", "host:1", "[::1]", "a b", ""] {
        let text = format!("relay.advertise = '{bad}'");
        assert_eq!(faults(&text), ["relay.advertise"], "{bad}");
    }
    let config = parse("relay = { listen_ip = '0.0.0.0', advertise = 'build.example' }").unwrap();
    assert_eq!(config.relay.advertised_host(), "build.example");
    assert_eq!(faults("http.listen = '127.0.0.1:24000'"), ["relay.ports"]);
}

#[test]
fn a_file_that_names_sizes_replaces_the_built_in_ones() {
    let config = parse("default_size = 'tiny'\nsizes.tiny = { vcpus = 1, memory_mib = 512 }");
    assert_eq!(config.unwrap().sizes.keys().collect::<Vec<_>>(), ["tiny"]);
    let no_default = "sizes.tiny = { vcpus = 1, memory_mib = 512 }";
    assert_eq!(faults(no_default), ["default_size"]);
    assert_eq!(
        faults("limits.memory_budget_mib = 2048"),
        ["sizes.large.memory_mib"]
    );
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.toml");
    let error = load(Some(&missing), Overrides::default()).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }), "{error:?}");
}
