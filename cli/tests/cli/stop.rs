//! `stop`.

use std::fs;

use insta::assert_snapshot;
use serde_json::json;

use crate::fake::{Fake, LEASE, Reply, TOKEN, lease, problem};
use crate::sandbox::Sandbox;

fn started(server: &Fake) -> Sandbox {
    let sandbox = Sandbox::new(server);
    assert!(sandbox.program("-q").status().unwrap().success());
    assert!(!sandbox.is_clean());
    sandbox
}

fn state(state: &str) -> serde_json::Value {
    json!({
        "id": LEASE, "state": state, "engine": "28", "size": "small", "ttl_s": 3600,
        "created_at": "2026-01-31T11:59:59Z",
    })
}

#[test]
fn stop_gives_back_and_removes_the_keys_and_may_be_repeated() {
    let server = Fake::start();
    let sandbox = started(&server);
    let first = sandbox.show(sandbox.program("stop").env("REMOTE_DOCKER_LEASE", LEASE));
    assert!(sandbox.is_clean());
    assert_snapshot!("stop", first);
    let again = sandbox.show(sandbox.program("stop").env("REMOTE_DOCKER_LEASE", LEASE));
    assert_eq!(first, again);
}

#[test]
fn a_machine_is_kept_to_be_looked_into() {
    let server = Fake::on("POST", |request| {
        if request.path == format!("/v1/leases/{LEASE}/keep") {
            let mut kept = state("active");
            kept["expires_at"] = json!("2026-01-31T12:10:00Z");
            return Reply::Json(200, kept);
        }
        Reply::Json(201, lease(request))
    });
    let sandbox = started(&server);
    let mut command = sandbox.program("stop --keep-for 10m");
    let shown = sandbox.show(command.env("REMOTE_DOCKER_LEASE", LEASE));
    assert_snapshot!("stop_keep_for", shown);
    assert!(!sandbox.is_clean(), "whoever looks into it needs the keys");
    let requests = server.requests();
    let [_, kept] = &requests[..] else {
        panic!("{:?}", server.calls());
    };
    assert_eq!(kept.body, json!({ "keep_s": 600 }));
    sandbox.show(&mut sandbox.program(&format!("stop {LEASE}")));
    server.assert_given_back(&sandbox);
}

#[test]
fn variables_of_another_lease_stay() {
    let server = Fake::start();
    let sandbox = started(&server);
    let mut command = sandbox.program(&format!("stop {LEASE}"));
    let shown = sandbox.show(command.env("REMOTE_DOCKER_LEASE", "l-0000000000009"));
    assert!(sandbox.is_clean());
    assert_snapshot!("stop_other", shown);
    assert_snapshot!("stop_none", sandbox.show(&mut sandbox.program("stop")));
}

#[test]
fn the_server_that_made_the_lease_is_asked() {
    let server = Fake::start();
    let sandbox = started(&server);
    let mut command = sandbox.program(&format!("stop {LEASE} -q"));
    command.env("REMOTE_DOCKER_URL", "http://127.0.0.1:9");
    assert!(command.status().unwrap().success());
    assert_eq!(server.calls()[1..], [format!("DELETE /v1/leases/{LEASE}")]);
}

#[test]
fn the_keys_go_even_if_the_server_does_not_help() {
    let unknown = Fake::on("DELETE", |_| {
        Reply::Problem(problem(404, "lease_not_found", "there is no such lease"))
    });
    let denied = Fake::on("DELETE", |_| {
        Reply::Problem(problem(401, "unauthorized", "the token is not good here"))
    });
    for (name, server) in [("unknown", unknown), ("denied", denied)] {
        let sandbox = Sandbox::new(&server);
        assert!(sandbox.program("-q").status().unwrap().success());
        let shown = sandbox.show(sandbox.program("stop").env("REMOTE_DOCKER_LEASE", LEASE));
        assert!(sandbox.is_clean());
        assert_snapshot!(format!("stop_{name}"), shown);
    }

    let server = Fake::start();
    let sandbox = started(&server);
    let mut command = sandbox.program("stop --url http://127.0.0.1:9");
    let shown = sandbox.show(command.env("REMOTE_DOCKER_LEASE", LEASE));
    assert!(sandbox.is_clean());
    assert_snapshot!("stop_unreachable", shown);
}

#[test]
fn what_the_user_put_beside_the_keys_is_left() {
    let server = Fake::start();
    let sandbox = started(&server);
    let folder = sandbox.leases().join(LEASE);
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    let shown = sandbox.show(&mut sandbox.program(&format!("stop {LEASE}")));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    assert_snapshot!(shown);
}

#[test]
fn stop_can_wait_for_the_end() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let asked = AtomicUsize::new(0);
    let server = Fake::on("GET", move |_| {
        let now = ["ending", "ending", "ended"][asked.fetch_add(1, Ordering::SeqCst)];
        Reply::Json(200, state(now))
    });
    let sandbox = Sandbox::new(&server);
    assert_snapshot!(sandbox.show(&mut sandbox.program(&format!("stop {LEASE} --wait"))));
    let poll = format!("GET /v1/leases/{LEASE}?wait_s=10");
    assert_eq!(
        server.calls()[1..],
        [&poll, &poll, &poll].map(String::clone)
    );
}

#[test]
fn a_lease_is_given_back_with_its_own_credential() {
    let server = Fake::on("POST", |request| {
        let mut lease = lease(request);
        lease["token"] = "rdl_of-this-lease".into();
        Reply::Json(201, lease)
    });
    let sandbox = Sandbox::new(&server);
    let started = sandbox.program("start").output().unwrap();
    assert!(started.status.success(), "{started:?}");
    let file = sandbox.leases().join(LEASE).join("token");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "rdl_of-this-lease");
    // What it was made with is over, or not even there any more.
    let mut stop = sandbox.program(&format!("stop {LEASE}"));
    let stopped = stop.env_remove("REMOTE_DOCKER_TOKEN").output().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    assert!(sandbox.is_clean());
    let shown: Vec<_> = server
        .requests()
        .into_iter()
        .map(|it| it.authorization)
        .collect();
    assert_eq!(
        shown,
        [
            format!("Bearer {TOKEN}"),
            "Bearer rdl_of-this-lease".to_owned()
        ]
    );
}

#[test]
fn what_a_command_says_of_its_lease_it_says_with_the_leases_credential() {
    let server = Fake::on("POST", |request| {
        if request.path.ends_with("/heartbeat") {
            return Reply::Json(200, serde_json::json!({}));
        }
        let mut lease = lease(request);
        lease["token"] = "rdl_of-this-lease".into();
        Reply::Json(201, lease)
    });
    let sandbox = Sandbox::new(&server);
    let ran = sandbox.program("run true").output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let of_lease = |path: &str| path.starts_with(&format!("/v1/leases/{LEASE}"));
    for request in server.requests() {
        let expected = if of_lease(&request.path) {
            "rdl_of-this-lease"
        } else {
            TOKEN
        };
        assert_eq!(
            request.authorization,
            format!("Bearer {expected}"),
            "{request:?}"
        );
    }
    assert!(
        server
            .requests()
            .iter()
            .any(|request| of_lease(&request.path))
    );
    // A flag is the user's own word.
    let mut stop = sandbox.program(&format!("stop {LEASE} --token mine"));
    assert!(stop.output().unwrap().status.success());
    assert_eq!(
        server.requests().pop().unwrap().authorization,
        "Bearer mine"
    );
}
