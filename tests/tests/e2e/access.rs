//! Tokens, limits of projects and the audit log, on a real server; and no secret of all that in any log.

use std::fs;
use std::process::Command;
use std::time::Duration;

use e2e::machine::ClientKey;
use e2e::process::{fail, succeed};
use e2e::{TestServer, until};
use remote_docker_api::{CreateLease, EndReason, ErrorCode, LeaseState};
use reqwest::Method;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// `remote-dockerd ARGS` with the server's configuration.
fn operator(server: &TestServer, args: &[&str]) -> Command {
    let mut command = Command::new(server.setting().server());
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(args)
        .arg("--config")
        .arg(server.root().join("config.toml"));
    command
}

fn audit(server: &TestServer) -> String {
    fs::read_to_string(server.state().join("audit.jsonl")).expect("the audit log")
}

/// What the audit log tells of this project, in the order in which it happened. What the server and the
/// command write at the same time may stand in the other order.
fn events(server: &TestServer, project: &str) -> Vec<String> {
    let text = audit(server);
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line"));
    let of_project = lines.filter(|line: &Value| line["project"] == project);
    let mut told: Vec<(String, String)> = of_project
        .map(|line| ["at", "event"].map(|name| line[name].as_str().expect(name).to_owned()))
        .map(|[at, event]| (at, event))
        .collect();
    told.sort();
    told.into_iter().map(|(_, event)| event).collect()
}

#[test]
fn a_token_opens_what_its_project_may_have_until_it_is_taken_back_and_no_log_has_a_secret() {
    let mut server = TestServer::builder()
        .set(
            "projects",
            json!({ "web": { "max_leases": 1, "max_ttl_s": 600 } }),
        )
        .set("log", json!({ "filter": "debug" }))
        .start();
    let make = [
        "token",
        "create",
        "ci",
        "--project",
        "web",
        "--expires",
        "1h",
    ];
    let token = succeed(&mut operator(&server, &make));
    assert!(token.starts_with("rdt_"), "{token}");

    // A lease of the CLI's, with that token.
    let cli = server.cli();
    let with_token = |mut command: Command| {
        command.env("REMOTE_DOCKER_TOKEN", &token);
        command
    };
    let lease = succeed(&mut with_token(cli.command(["start", "--format", "json"])));
    let lease: Value = serde_json::from_str(&lease).expect("a lease");
    let id = lease["lease_id"].as_str().expect("its id");
    let mut secrets = vec![token.clone(), server.token()];
    for file in cli.files() {
        for pem in ["key.pem", "cert.pem", "ca.pem"] {
            let text = fs::read_to_string(file.join(pem)).expect("a file of the lease");
            let lines = text.lines().filter(|line| !line.starts_with("-----"));
            secrets.extend(lines.map(str::to_owned));
        }
    }
    assert!(secrets.len() > 10, "{lease}");

    // One more waits for the project and not for the host, and others do not see either.
    let api = e2e::Api::new(cli.url(), &token);
    let key = ClientKey::generate();
    let waits = CreateLease {
        wait_s: Some(3),
        ..key.request()
    };
    let refused = api.create(&waits).expect_err("a second machine");
    assert_eq!(refused.code, ErrorCode::QuotaExceeded, "{refused:?}");
    // The refusal comes when the wait is over, and what waited is ended right after.
    until(
        "what waited is gone",
        PATIENCE,
        || api.list(),
        |list| list.len() == 1,
    );
    assert_eq!(server.api().list().len(), 0);

    let doctor = ["doctor", "--format", "json"];
    let doctor = operator(&server, &doctor).output().expect("the doctor");
    let list = succeed(&mut operator(
        &server,
        &["token", "list", "--format", "json"],
    ));
    succeed(&mut with_token(cli.command(["stop", id])));
    let id = id.parse().expect("an id");
    let ended = until(
        "the lease has ended",
        PATIENCE,
        || api.show(id, 0).expect("the lease is known"),
        |lease| lease.state == LeaseState::Ended,
    );
    assert_eq!(ended.end_reason, Some(EndReason::Released));
    succeed(&mut operator(&server, &["token", "revoke", "ci"]));
    let said = fail(&mut with_token(cli.command(["list"])));
    assert!(said.contains("token_revoked"), "{said}");

    let metrics = server.api().request(Method::GET, "/metrics").send();
    let metrics = metrics.expect("metrics").text().expect("their text");
    assert!(
        metrics.contains("remote_dockerd_audit_records_total"),
        "{metrics}"
    );
    server.stop();
    let expected = [
        "token_created",
        "lease_asked",
        "lease_active",
        "lease_asked",
        "lease_ended",
        "lease_ended",
        "token_revoked",
    ];
    assert_eq!(events(&server, "web"), expected, "{}", audit(&server));
    assert!(audit(&server).contains("token ci"), "{}", audit(&server));
    let book = fs::read_to_string(server.state().join("tokens.json")).expect("the book");
    let places = [
        ("log", server.log()),
        ("audit log", audit(&server)),
        ("metrics", metrics),
        (
            "doctor",
            String::from_utf8_lossy(&doctor.stdout).into_owned(),
        ),
        ("list of tokens", list),
        ("book of tokens", book),
    ];
    for (name, text) in &places {
        assert!(!text.is_empty(), "there is no {name}");
        for secret in &secrets {
            assert!(
                !text.contains(secret.as_str()),
                "{secret} is in the {name}: {text}"
            );
        }
    }
    server.wait_clean();
}
