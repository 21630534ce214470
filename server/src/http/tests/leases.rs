//! A lease from its request to its end.

use remote_docker_api::{Egress, EndReason, EventKind, Lease, LeaseList, LeaseState};

use super::*;
use crate::ids::VmId;

#[tokio::test]
async fn a_lease_is_made_shown_listed_and_given_back() {
    let fixture = Fixture::new().await;
    let running = fixture.reconciled();

    let answer = fixture
        .post(order(json!({
            "engine": "28", "size": "large", "ttl_s": 60, "wait_s": 20, "labels": {"job": "b-7"},
            "keepalive_s": 30, "idle_s": 600, "egress": "none"
        })))
        .await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    // The call followed what was told of each commit.
    assert_eq!(fixture.api.store.lookups(), 0);
    let lease: Lease = answer.json();
    assert_eq!(
        answer.header("location"),
        format!("/v1/leases/{}", lease.id)
    );
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(lease.state, LeaseState::Active);
    assert_eq!(
        (lease.engine.as_str(), lease.size.as_str()),
        ("28", "large")
    );
    assert_eq!(lease.ttl_s, 60);
    assert_eq!(lease.labels["job"], "b-7");
    assert_eq!(lease.created_at, NOW);
    assert_eq!(lease.expires_at, Some(NOW + time::Duration::seconds(60)));
    assert_eq!(lease.timings[0].step, "clone");
    assert_eq!((lease.keepalive_s, lease.idle_s), (Some(30), Some(600)));
    assert_eq!(lease.egress, Some(Egress::None));
    let due = Some(NOW + time::Duration::seconds(30));
    assert_eq!(lease.heartbeat_due_at, due);
    let docker = lease.docker.clone().unwrap();
    assert_eq!(docker.host, "tcp://127.0.0.1:23760");
    assert!(docker.cert_pem.starts_with("-----BEGIN CERTIFICATE-----"));
    assert_ne!(docker.cert_pem, docker.ca_pem);
    let ssh = lease.ssh.clone().unwrap();
    assert_eq!(
        (ssh.user.as_str(), ssh.host_key.as_str()),
        ("root", "ssh-ed25519 KEY")
    );

    let path = format!("/v1/leases/{}", lease.id);
    assert_eq!(fixture.get(&path).await.json::<Lease>(), lease);
    assert_eq!(
        fixture.get("/v1/leases").await.json::<LeaseList>().leases,
        [lease]
    );

    drop(running);
    let gone = fixture.call(Method::DELETE, &path).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    assert!(gone.body.is_empty());
    // The wish alone is an end to whoever looks.
    let ending: Lease = fixture.get(&path).await.json();
    assert_eq!(ending.state, LeaseState::Ending);
    assert_eq!(ending.end_reason, Some(EndReason::Released));
    assert_eq!((ending.docker, ending.ssh), (None, None));

    let _running = fixture.reconciled();
    let ended = loop {
        let lease: Lease = fixture.get(&format!("{path}?wait_s=20")).await.json();
        if lease.state == LeaseState::Ended {
            break lease;
        }
    };
    assert_eq!(ended.end_reason, Some(EndReason::Released));
    assert_eq!((ended.ready_at, ended.ended_at), (Some(NOW), Some(NOW)));
    let again = fixture.call(Method::DELETE, &path).await;
    assert_eq!(again.status, StatusCode::NO_CONTENT);
    assert_eq!(
        fixture.get("/v1/leases").await.json::<LeaseList>(),
        LeaseList::default()
    );
}

#[tokio::test]
async fn what_is_left_out_takes_its_default() {
    let fixture = Fixture::new().await;
    let _running = fixture.reconciled();
    let lease: Lease = fixture.post(order(json!({}))).await.json();
    assert_eq!(
        (lease.engine.as_str(), lease.size.as_str()),
        ("26", "small")
    );
    assert_eq!(lease.ttl_s, 3600);
    assert_eq!((lease.keepalive_s, lease.idle_s), (None, None));
    assert_eq!(lease.egress, Some(Egress::Internet));
    assert_eq!(lease.heartbeat_due_at, None);
}

#[tokio::test]
async fn a_call_that_does_not_wait_gets_a_lease_to_follow() {
    let fixture = Fixture::new().await;
    let answer = fixture.post(order(json!({ "wait_s": 0 }))).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let lease: Lease = answer.json();
    assert_eq!((lease.state, lease.docker), (LeaseState::Waiting, None));
    let path = answer.header("location").to_owned();

    let row = fixture.lease_once(|_| true).await;
    assert!(!row.attended);
    assert_eq!(row.wait_until, NOW + time::Duration::seconds(600));
    // Nobody hung up, so nobody gives it up.
    fixture.api.background.close();
    fixture.api.background.wait().await;
    assert_eq!(fixture.lease_once(|_| true).await.end_wish, None);

    // It misses nothing, even when the machine is there before the question is.
    let seen = answer.header("etag").to_owned();
    let follow = |wait_s: u32, seen: &str| {
        let path = format!("{path}?wait_s={wait_s}");
        let request = with_token(Method::GET, &path).header("if-none-match", seen);
        fixture.send(request.body(Body::empty()).unwrap())
    };
    let unchanged = follow(1, &seen).await;
    assert_eq!(unchanged.status, StatusCode::NOT_MODIFIED);
    let row = fixture.lease_once(|_| true).await;
    reconciler::grant(&fixture.api.store, &row).await;
    let begun = std::time::Instant::now();
    let followed = follow(20, &seen).await;
    assert_eq!(followed.json::<Lease>().state, LeaseState::Active);
    let again = follow(20, "W/\"of another time\"").await;
    assert_eq!(again.json::<Lease>().state, LeaseState::Active);
    assert!(begun.elapsed().as_secs() < 10, "it waited for more");
    assert_eq!(again.header("etag"), followed.header("etag"));
}

#[tokio::test]
async fn an_ipv6_relay_can_be_connected_to() {
    let fixture = Fixture::new().await;
    let fixture = fixture.with(|api| api.relay_host = "fd00::7".to_owned());
    let _running = fixture.reconciled();
    let lease: Lease = fixture.post(order(json!({}))).await.json();
    assert_eq!(lease.docker.unwrap().host, "tcp://[fd00::7]:23760");
}

#[tokio::test]
async fn leases_that_are_not_there_and_ids_that_are_none() {
    let fixture = Fixture::new().await;
    for method in [Method::GET, Method::DELETE] {
        let missing = fixture
            .call(method.clone(), "/v1/leases/l-0000000000007")
            .await;
        missing.problem(404, ErrorCode::LeaseNotFound);
        for id in ["x", "vm-0000000000007", "%ff", "l-000000000000u"] {
            let path = format!("/v1/leases/{id}");
            let answer = fixture.call(method.clone(), &path).await;
            answer.problem(400, ErrorCode::InvalidId);
        }
    }
}

#[tokio::test]
async fn what_a_machine_runs_out_of_is_shown_and_who_waits_is_woken() {
    let fixture = Fixture::new().await;
    let lease = fixture.active(json!({})).await;
    assert_eq!(lease.warnings, []);
    let vm = VmId::from_bits(lease.id.bits());
    let path = format!("/v1/leases/{}", lease.id);
    let tag = fixture.get(&path).await.header("etag").to_owned();
    let waits = with_token(Method::GET, &format!("{path}?wait_s=60"));
    let waits = waits.header("if-none-match", &tag).body(Body::empty());
    let waits = fixture.send(waits.unwrap());
    let tells = async {
        let words = "the machine's disk is full, 3 MiB are left";
        let store = &fixture.api.store;
        let told = store.tell_trouble(vm, EventKind::DiskFull, words, NOW);
        told.await.unwrap().unwrap();
    };
    let (woken, ()) = tokio::join!(waits, tells);
    let woken: Lease = woken.json();
    let [warning] = woken.warnings.as_slice() else {
        panic!("not one warning: {:?}", woken.warnings);
    };
    assert_eq!((warning.seq, warning.kind), (3, EventKind::DiskFull));
    assert_eq!(warning.at, NOW);
    let now: Lease = fixture.get(&path).await.json();
    assert_eq!(now.warnings, woken.warnings);
}
