//! `ssh` and `ssh-config`, as far as they need no machine; the rest is tested on real ones.

use insta::assert_snapshot;
use serde_json::json;

use crate::fake::{Fake, LEASE, Reply, lease};
use crate::sandbox::Sandbox;

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPbHk4Zb+qNHT5XQ3cUXE4J/eTMBEz5Sg6Gwdl9h1Ld";

/// A server whose leases tell this about SSH.
fn server(user: &'static str, host_key: &'static str) -> Fake {
    Fake::on("POST", move |request| {
        let mut lease = lease(request);
        lease["docker"]["host"] = json!("tcp://127.0.0.1:9");
        lease["ssh"] = json!({ "alpn": "remote-docker-ssh", "user": user, "host_key": host_key });
        Reply::Json(201, lease)
    })
}

#[test]
fn other_programs_are_told_how_to_reach_the_machine() {
    let server = server("root", KEY);
    let sandbox = Sandbox::new(&server);
    let shown = sandbox.show(&mut sandbox.program("start --quiet --format json"));
    assert!(shown.starts_with("exit status: 0"), "{shown}");
    let folder = sandbox.leases().join(LEASE);
    let known = std::fs::read_to_string(folder.join("known_hosts")).unwrap();
    assert_eq!(known, format!("{LEASE} {KEY}\n"));
    let shown = sandbox.show(&mut sandbox.program(&format!("ssh-config {LEASE}")));
    assert_snapshot!(shown.replace(env!("CARGO_BIN_EXE_setup-remote-docker"), "[PROGRAM]"));
    // Nobody listens where the machine should be.
    let mut all = sandbox.show(&mut sandbox.program(&format!("ssh --lease {LEASE} true")));
    all += &sandbox.show(&mut sandbox.program(&format!("stop {LEASE}")));
    all += &sandbox.show(&mut sandbox.program(&format!("ssh --lease {LEASE} true")));
    assert_snapshot!("machines_that_are_not_there", all);
    assert!(sandbox.is_clean());
}

#[test]
fn a_server_that_knows_nothing_of_ssh_is_told() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    sandbox.show(&mut sandbox.program("start --quiet --format json"));
    let mut all = sandbox.show(&mut sandbox.program(&format!("ssh --lease {LEASE} true")));
    all += &sandbox.show(&mut sandbox.program(&format!("ssh-config {LEASE}")));
    assert_snapshot!(all);
}

#[test]
fn a_server_that_tells_nonsense_about_ssh_gets_its_lease_back() {
    for (user, key) in [
        ("root\nProxyCommand evil", KEY),
        ("root", "evil"),
        ("", KEY),
    ] {
        let server = server(user, key);
        let sandbox = Sandbox::new(&server);
        let shown = sandbox.show(&mut sandbox.program("start"));
        assert!(
            shown.contains("what it says about SSH makes no sense"),
            "{shown}"
        );
        server.assert_given_back(&sandbox);
    }
}

#[test]
fn a_folder_that_would_say_more_than_its_name_is_in_no_configuration() {
    let server = server("root", KEY);
    for name in ["a\"b", "a${HOME}b", "a\nProxyCommand evil"] {
        let sandbox = Sandbox::new(&server);
        let folder = sandbox.path(name);
        std::fs::create_dir(&folder).unwrap();
        let mut start = sandbox.program("start --quiet --format json");
        assert!(
            start
                .env("XDG_RUNTIME_DIR", &folder)
                .output()
                .unwrap()
                .status
                .success()
        );
        let mut config = sandbox.program(&format!("ssh-config {LEASE}"));
        let output = config.env("XDG_RUNTIME_DIR", &folder).output().unwrap();
        assert_eq!(
            (output.status.code(), output.stdout.as_slice()),
            (Some(74), &b""[..])
        );
    }
}
