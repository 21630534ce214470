use super::*;
use crate::args::Format;

const HOST: &str = "tcp://192.0.2.7:23760";

fn environment(has_proxy: bool, shared: &[(Shared, &str)]) -> Environment {
    let mut environment = Environment {
        has_proxy,
        ..Environment::default()
    };
    for (name, value) in shared {
        environment.shared[*name as usize] = Some((*value).to_owned());
    }
    environment
}

/// What becomes of the shared variables, as `NAME=VALUE`.
fn changed(docker_host: &str, environment: &Environment) -> Vec<String> {
    changes(docker_host, environment)
        .into_iter()
        .map(|change| format!("{}={}", change.name.name(), change.to))
        .collect()
}

#[test]
fn names_and_places_of_shared_variables_agree() {
    for (place, name) in Shared::ALL.into_iter().enumerate() {
        assert_eq!(name as usize, place);
        assert_eq!(serde_json::to_value(name).unwrap(), name.name());
    }
}

#[test]
fn without_a_proxy_and_testcontainers_nothing_else_changes() {
    assert!(changed(HOST, &environment(false, &[])).is_empty());
    let lists = [(Shared::NoProxy, "corp"), (Shared::NoProxyLower, "corp")];
    assert!(changed(HOST, &environment(false, &lists)).is_empty());
}

#[test]
fn with_a_proxy_both_lists_get_the_host() {
    for (lists, expected) in [
        (vec![], ["192.0.2.7", "192.0.2.7"]),
        (
            vec![(Shared::NoProxy, "corp, .example")],
            ["corp, .example,192.0.2.7", "corp, .example,192.0.2.7"],
        ),
        (
            vec![(Shared::NoProxy, "a"), (Shared::NoProxyLower, "b,")],
            ["a,192.0.2.7", "b,192.0.2.7"],
        ),
    ] {
        let [upper, lower] = expected;
        assert_eq!(
            changed(HOST, &environment(true, &lists)),
            [format!("NO_PROXY={upper}"), format!("no_proxy={lower}")]
        );
    }
    let all = [
        (Shared::NoProxy, "*"),
        (Shared::NoProxyLower, "x, 192.0.2.7"),
    ];
    assert!(changed(HOST, &environment(true, &all)).is_empty());
    let v6 = changed("tcp://[2001:db8::1]:1", &environment(true, &[]));
    assert_eq!(v6[0], "NO_PROXY=2001:db8::1");
}

#[test]
fn what_testcontainers_was_told_about_another_daemon_is_replaced() {
    let other = [
        (Shared::TestcontainersHost, "host.docker.internal"),
        (Shared::TestcontainersSocket, "/run/user/1000/docker.sock"),
    ];
    assert_eq!(
        changed(HOST, &environment(false, &other)),
        [
            "TESTCONTAINERS_HOST_OVERRIDE=192.0.2.7",
            "TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE=/var/run/docker.sock",
        ]
    );
    let right = [
        (Shared::TestcontainersHost, "192.0.2.7"),
        (Shared::TestcontainersSocket, "/var/run/docker.sock"),
    ];
    assert!(changed(HOST, &environment(false, &right)).is_empty());
}

#[test]
fn in_a_container_a_daemon_on_loopback_is_not_taken_for_the_containers_own() {
    let mode = "TESTCONTAINERS_CONNECTION_MODE=docker_host";
    let inside = |shared| Environment {
        in_container: true,
        ..environment(false, shared)
    };
    for host in ["tcp://127.0.0.1:1", "tcp://localhost:1", "tcp://[::1]:1"] {
        assert_eq!(changed(host, &inside(&[])), [mode]);
        assert!(changed(host, &environment(false, &[])).is_empty());
    }
    // Elsewhere it finds out by itself, unless it was told something else.
    assert!(changed(HOST, &inside(&[])).is_empty());
    let other = [(Shared::TestcontainersMode, "bridge_ip")];
    assert_eq!(changed(HOST, &environment(false, &other)), [mode]);
    let right = [(Shared::TestcontainersMode, "docker_host")];
    assert!(changed("tcp://127.0.0.1:1", &inside(&right)).is_empty());
}

#[test]
fn what_was_changed_is_put_back_unless_somebody_changed_it_since() {
    let before = environment(true, &[(Shared::NoProxy, "corp")]);
    let changes = changes(HOST, &before);
    let own = OWN.map(|name| (name, None));
    let during = [
        (Shared::NoProxy, "corp,192.0.2.7"),
        (Shared::NoProxyLower, "corp,192.0.2.7"),
    ];
    let mut expected = own.to_vec();
    expected.push(("NO_PROXY", Some("corp".to_owned())));
    expected.push(("no_proxy", None));
    assert_eq!(undo(&changes, &environment(true, &during)), expected);
    let since = [(Shared::NoProxy, "mine"), (Shared::NoProxyLower, "mine")];
    assert_eq!(undo(&changes, &environment(true, &since)), own);
}

#[test]
fn each_format_has_its_own_words() {
    let settings = [
        ("PLAIN", Some("tcp://127.0.0.1:1".to_owned())),
        ("ODD", Some("it's $HOME \"\\ ’".to_owned())),
        ("LINES", Some("a\nEND".to_owned())),
        ("GONE", None),
    ];
    let written = |format| write(format, &settings);
    assert_eq!(
        written(Format::Powershell).unwrap(),
        "$Env:PLAIN = 'tcp://127.0.0.1:1';\n$Env:ODD = 'it''s $HOME \"\\ ’’';\n\
         $Env:LINES = 'a\nEND';\nRemove-Item -ErrorAction SilentlyContinue Env:GONE;\n"
    );
    assert_eq!(
        written(Format::Dotenv).unwrap(),
        "PLAIN=tcp://127.0.0.1:1\nODD=\"it's \\$HOME \\\"\\\\ ’\"\nLINES=\"a\\nEND\"\nGONE=\n"
    );
    assert_eq!(
        written(Format::Github).unwrap(),
        "PLAIN=tcp://127.0.0.1:1\nODD=it's $HOME \"\\ ’\nLINES<<END_\na\nEND\nEND_\nGONE=\n"
    );
    assert_eq!(written(Format::Gitlab), Err(Unwritable { name: "LINES" }));
    assert_eq!(
        write(Format::Gitlab, &settings[..2]).unwrap(),
        "PLAIN=tcp://127.0.0.1:1\nODD=it's $HOME \"\\ ’\n"
    );
}
