//! The API on an address that others reach: with TLS, for those who know its authority.

use std::process::Command;
use std::time::Duration;

use e2e::process::{said, succeed, text};
use e2e::server::API_PORT;
use e2e::{TestServer, eventually};

/// An address of this host that is not one of loopback. The test's network namespace has nobody else.
const ADDRESS: &str = "192.0.2.7";
/// Until a server that may have to build a template is ready.
const READY_LIMIT: Duration = Duration::from_secs(240);

fn url() -> String {
    format!("https://{ADDRESS}:{API_PORT}")
}

/// The client, pointed at that address, with what `remote-dockerd ca` prints or without it.
fn client(server: &TestServer, ca: Option<&str>) -> Command {
    let mut command = server.cli().command([]);
    command.env("REMOTE_DOCKER_URL", url());
    if let Some(ca) = ca {
        command.env("REMOTE_DOCKER_CA", ca);
    }
    command
}

#[test]
fn a_client_on_the_network_needs_the_authority_and_then_leases() {
    let builder = TestServer::builder()
        .set("http.listen", format!("0.0.0.0:{API_PORT}"))
        .set("http.names", vec![ADDRESS])
        .set("relay.listen_ip", "127.0.0.1");
    let mut ca = String::new();
    let mut server = builder.start_until(|server| {
        let mut ip = Command::new("ip");
        succeed(ip.args(["address", "add", &format!("{ADDRESS}/32"), "dev", "lo"]));
        eventually(
            "a client is told that the server is ready",
            READY_LIMIT,
            || {
                if let Some(status) = server.ended() {
                    panic!("the server ended ({status}) before it was ready");
                }
                // As the operator does it, with the server's own configuration.
                let mut print = Command::new(server.setting().server());
                print
                    .args(["ca", "--config"])
                    .arg(server.root().join("config.toml"));
                let printed = print.output().unwrap();
                ca = text(&printed.stdout);
                if !printed.status.success() || !server.state().join("token").exists() {
                    return Err(said(&printed));
                }
                let mut doctor = client(server, Some(&ca));
                let found = text(
                    &doctor
                        .args(["doctor", "--format", "json"])
                        .output()
                        .unwrap()
                        .stdout,
                );
                let ready = found.contains("the server can serve them");
                if ready { Ok(()) } else { Err(found) }
            },
        );
    });
    assert!(ca.starts_with("-----BEGIN CERTIFICATE-----"), "{ca}");

    // Without the authority, and over an open line, nobody goes as far as showing the token.
    let output = client(&server, None).arg("list").output().unwrap();
    let words = text(&output.stderr);
    assert_eq!(output.status.code(), Some(76), "{}", said(&output));
    assert!(
        words.contains("hint:") && words.contains("REMOTE_DOCKER_CA"),
        "{words}"
    );
    let mut open = client(&server, Some(&ca));
    open.env("REMOTE_DOCKER_URL", url().replace("https", "http"))
        .arg("list");
    let output = open.output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
    let mut insisting = client(&server, Some(&ca));
    insisting
        .env("REMOTE_DOCKER_URL", url().replace("https", "http"))
        .env("REMOTE_DOCKER_ALLOW_PLAINTEXT", "1");
    let output = insisting.arg("list").output().unwrap();
    let words = text(&output.stderr);
    assert!(
        words.contains("tls_required") && words.contains("https://"),
        "{words}"
    );

    let mut run = client(&server, Some(&ca));
    run.args(["run", "--"]).arg(server.setting().docker());
    let output = run
        .args(["version", "--format", "{{.Server.Os}}"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(text(&output.stdout), "linux");

    server.wait_clean();
    server.stop();
    // What was sent over TLS is not in the log either.
    assert!(
        !server.log().contains(&server.token()),
        "the token is in the log"
    );
}
