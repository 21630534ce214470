//! `list`.

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::fake::{Fake, Reply, TOKEN};
use crate::sandbox::Sandbox;

fn leases() -> Value {
    json!({ "leases": [
        {
            "id": "l-0000000000001", "state": "active", "engine": "28", "size": "small",
            "ttl_s": 3600, "created_at": "2026-01-31T11:59:59Z",
            "expires_at": "2026-01-31T13:00:00Z", "labels": { "job": "nightly", "pr": "7" },
            "docker": { "host": "tcp://127.0.0.1:23760", "ca_pem": "CA", "cert_pem": "CERT" },
        },
        {
            "id": "l-0000000000002", "state": "waiting", "engine": "26", "size": "extra-large",
            "ttl_s": 60, "created_at": "2026-01-31T12:30:00Z",
            "labels": { "x": "\u{1b}[31mred\nl-0000000000003  active" },
        },
    ]})
}

#[test]
fn list_table_and_json() {
    let server = Fake::on("GET", |_| Reply::Json(200, leases()));
    let sandbox = Sandbox::new(&server);
    assert_snapshot!("list_table", sandbox.show(&mut sandbox.program("list")));
    assert_snapshot!(
        "list_json",
        sandbox.show(&mut sandbox.program("list --format json"))
    );
    for request in server.requests() {
        assert_eq!(request.authorization, format!("Bearer {TOKEN}"));
    }
}

#[test]
fn list_of_nothing() {
    let server = Fake::start();
    let sandbox = Sandbox::new(&server);
    assert_snapshot!(sandbox.show(&mut sandbox.program("list")));
}
