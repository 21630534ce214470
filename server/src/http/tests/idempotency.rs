//! The same request sent twice: by a client that lost the answer, by two at once, after a restart.

use remote_docker_api::{EndReason, LeaseState};

use super::*;
use crate::http::lines::Line;
use crate::lease::LeasePhase;

fn keyed(key: &str, body: &str) -> Request<Body> {
    with_token(Method::POST, "/v1/leases")
        .header("Idempotency-Key", key)
        .body(Body::from(body.to_owned()))
        .unwrap()
}

impl Fixture {
    async fn repeat(&self, body: &str) -> Answer {
        self.send(keyed("job-7", body)).await
    }

    /// A call that waits; the lease is there when this returns.
    async fn calling(&self, body: &str) -> tokio::task::JoinHandle<Answer> {
        let router = self.router.clone();
        let request = keyed("job-7", body);
        // The clock is moved on by a minute meanwhile.
        let call = tokio::spawn(send_within(FAR * 20, router, request));
        self.lease_once(|_| true).await;
        call
    }

    /// Waits until so many calls hold the line for the one lease there is.
    async fn lines(&self, id: LeaseId, wanted: usize) {
        let look = async {
            while self.api.lines.waiting(id) != wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(FAR, look).await.expect("lines");
    }
}

/// Lets so many seconds go by, in steps: a jump would make the database seem to take for ever.
async fn pass(seconds: u32) {
    for _ in 0..seconds {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::time::resume();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn the_same_request_gets_the_same_lease_also_when_it_is_over() {
    let fixture = Fixture::new().await;
    let body = order(json!({ "wait_s": 0, "labels": {"a": "b"} }));
    let first = fixture.repeat(&body).await;
    assert_eq!(first.status, StatusCode::ACCEPTED);
    let lease: Lease = first.json();
    // It still waits.
    let second = fixture.repeat(&body).await;
    assert_eq!(second.status, StatusCode::ACCEPTED);
    assert_eq!(second.json::<Lease>(), lease);

    fixture.grant(lease.id).await;
    let active = fixture.repeat(&body).await;
    assert_eq!(active.status, StatusCode::OK);
    assert_eq!(active.header("location"), first.header("location"));
    let active: Lease = active.json();
    assert_eq!((active.id, active.state), (lease.id, LeaseState::Active));
    assert!(active.docker.is_some());
    // How long the caller waits is not about the lease.
    let request: Value = serde_json::from_str(&body).unwrap();
    let mut patient = request.clone();
    patient["wait_s"] = 20.into();
    let again: Lease = fixture.repeat(&patient.to_string()).await.json();
    assert_eq!(again, active);

    let path = format!("/v1/leases/{}", lease.id);
    fixture.call(Method::DELETE, &path).await;
    for _ in 0..3 {
        reconciler::reconcile(&fixture.api.store).await;
    }
    let ended = fixture.repeat(&body).await;
    assert_eq!(ended.status, StatusCode::OK);
    let ended: Lease = ended.json();
    assert_eq!((ended.id, ended.state), (lease.id, LeaseState::Ended));
    fixture.assert_no_lease().await;
}

#[tokio::test]
async fn another_request_with_the_same_key_is_refused() {
    let fixture = Fixture::new().await;
    let body = order(json!({ "wait_s": 0 }));
    let lease: Lease = fixture.repeat(&body).await.json();
    let request: Value = serde_json::from_str(&body).unwrap();
    for change in [
        json!({"ttl_s": 60}),
        json!({"engine": "28"}),
        json!({"size": "large"}),
        json!({"keepalive_s": 60}),
        json!({"idle_s": 60}),
        json!({"egress": "none"}),
        json!({"labels": {"a": "b"}}),
        // A key of its own: the certificate would be of no use to this caller.
        json!({"client_csr_pem": csr()}),
    ] {
        let mut other = request.clone();
        let members = other.as_object_mut().unwrap();
        members.extend(change.as_object().unwrap().clone());
        let answer = fixture.repeat(&other.to_string()).await;
        let problem = answer.problem(422, ErrorCode::IdempotencyConflict);
        assert!(problem.hint.is_some(), "{change}");
    }
    assert_eq!(fixture.lease_once(|_| true).await.id, lease.id);

    let other: Lease = fixture.send(keyed("job-8", &body)).await.json();
    assert_ne!(other.id, lease.id);
    let none: Lease = fixture.post(body).await.json();
    assert!(none.id != lease.id && none.id != other.id);
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_before_anything_is_written() {
    let fixture = Fixture::new().await;
    let body = order(json!({ "wait_s": 0 }));
    for key in ["", " ", "a b", "\u{e9}", "tab\there", &"x".repeat(256)] {
        let answer = fixture.send(keyed(key, &body)).await;
        let problem = answer.problem(400, ErrorCode::InvalidIdempotencyKey);
        assert!(problem.hint.is_some(), "{key}");
    }
    let mut twice = keyed("a", &body);
    let value = header::HeaderValue::from_static("b");
    twice.headers_mut().append("Idempotency-Key", value);
    let answer = fixture.send(twice).await;
    answer.problem(400, ErrorCode::InvalidIdempotencyKey);
    fixture.assert_no_lease().await;

    let longest = fixture.send(keyed(&"~".repeat(255), &body)).await;
    assert_eq!(longest.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn two_callers_wait_for_one_lease_and_both_get_it() {
    let fixture = Fixture::new().await;
    let body = order(json!({ "wait_s": 600 }));
    let first = fixture.calling(&body).await;
    let second = fixture.calling(&body).await;
    let row = fixture.lease_once(|_| true).await;
    fixture.lines(row.id, 2).await;
    fixture.grant(row.id).await;
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!(first.status, StatusCode::CREATED);
    assert_eq!(second.status, StatusCode::OK);
    assert_eq!(first.json::<Lease>(), second.json::<Lease>());
    assert_eq!(fixture.api.lines.waiting(row.id), 0);
}

#[tokio::test(flavor = "current_thread")]
async fn whoever_hangs_up_leaves_the_lease_to_the_others() {
    let fixture = Fixture::new().await;
    let body = order(json!({ "wait_s": 600 }));
    let first = fixture.calling(&body).await;
    let second = fixture.calling(&body).await;
    let row = fixture.lease_once(|_| true).await;
    fixture.lines(row.id, 2).await;
    second.abort();
    fixture.lines(row.id, 1).await;
    let third = fixture.calling(&body).await;
    fixture.lines(row.id, 2).await;
    // Now the one that made it.
    first.abort();
    fixture.lines(row.id, 1).await;
    pass(60).await;
    assert_eq!(fixture.lease_once(|_| true).await.end_wish, None);

    fixture.grant(row.id).await;
    let third = third.await.unwrap();
    assert_eq!(third.status, StatusCode::OK);
    fixture.api.background.close();
    fixture.api.background.wait().await;
    assert_eq!(fixture.lease_once(|_| true).await.end_wish, None);
}

#[tokio::test(flavor = "current_thread")]
async fn a_client_that_comes_back_in_time_finds_its_lease_and_one_that_does_not_loses_it() {
    let fixture = Fixture::new().await;
    let body = order(json!({ "wait_s": 600 }));
    let first = fixture.calling(&body).await;
    let row = fixture.lease_once(|_| true).await;
    fixture.lines(row.id, 1).await;
    first.abort();
    fixture.lines(row.id, 0).await;
    pass(20).await;
    // Its machine came while nobody was there.
    fixture.grant(row.id).await;
    let back = fixture.repeat(&body).await;
    assert_eq!(back.status, StatusCode::OK);
    assert_eq!(back.json::<Lease>().state, LeaseState::Active);
    pass(60).await;
    assert_eq!(fixture.lease_once(|_| true).await.end_wish, None);

    let fixture = Fixture::new().await;
    let gone = fixture.calling(&body).await;
    gone.abort();
    let _ = gone.await;
    pass(31).await;
    let row = fixture.lease_once(|row| row.end_wish.is_some()).await;
    assert_eq!(row.end_wish, Some(EndReason::ClientGone));
}

#[tokio::test]
async fn one_that_waits_too_short_does_not_end_it_for_the_other() {
    let fixture = Fixture::new().await;
    let body = order(json!({ "wait_s": 600 }));
    let first = fixture.calling(&body).await;
    let id = fixture.lease_once(|_| true).await.id;
    let mut short: Value = serde_json::from_str(&body).unwrap();
    short["wait_s"] = 1.into();
    let answer = fixture.repeat(&short.to_string()).await;
    answer.problem(503, ErrorCode::NoCapacity);
    assert_eq!(fixture.lease_once(|_| true).await.end_wish, None);
    fixture.grant(id).await;
    assert_eq!(first.await.unwrap().status, StatusCode::CREATED);
}

#[tokio::test]
async fn who_follows_a_lease_that_stands_alone_cannot_end_it() {
    let fixture = Fixture::new().await;
    let body = order(json!({ "wait_s": 0 }));
    fixture.repeat(&body).await;
    let mut waiting: Value = serde_json::from_str(&body).unwrap();
    waiting["wait_s"] = 1.into();
    let answer = fixture.repeat(&waiting.to_string()).await;
    answer.problem(503, ErrorCode::NoCapacity);
    let call = fixture.calling(&waiting.to_string()).await;
    call.abort();
    let _ = call.await;
    fixture.api.background.close();
    fixture.api.background.wait().await;
    assert_eq!(fixture.lease_once(|_| true).await.end_wish, None);
}

#[tokio::test]
async fn a_line_that_was_only_joined_ends_nothing_unless_others_depended_on_it() {
    let fixture = Fixture::new().await;
    let lease = fixture.active(json!({})).await;
    // A repeated request whose client hangs up before anything was looked at.
    drop(Line::join(fixture.api.clone(), lease.id, false));
    assert_eq!(fixture.api.background.len(), 0);
    assert_eq!(fixture.api.lines.waiting(lease.id), 0);

    let first = Line::hold(fixture.api.clone(), lease.id, false);
    let second = Line::join(fixture.api.clone(), lease.id, false);
    drop(first);
    assert_eq!(fixture.api.background.len(), 0);
    drop(second);
    let row = fixture.lease_once(|row| row.end_wish.is_some()).await;
    assert_eq!(row.end_wish, Some(EndReason::ClientGone));
}

#[tokio::test(flavor = "current_thread")]
async fn a_restart_keeps_the_place_of_who_comes_back() {
    let fixture = Fixture::new().await;
    let body = order(json!({ "wait_s": 600 }));
    let call = fixture.calling(&body).await;
    let id = fixture.lease_once(|_| true).await.id;
    fixture.api.stopping.cancel();
    call.await.unwrap().problem(503, ErrorCode::NotReady);
    fixture.api.background.close();
    fixture.api.background.wait().await;
    fixture.api.store.close().await;

    let fixture = Fixture::on(fixture.folder).await;
    assert_eq!(fixture.api.store.startup().await.unwrap(), 0);
    expect_clients_back(&fixture.api).await.unwrap();
    let call = fixture.calling(&body).await;
    fixture.lines(id, 1).await;
    pass(60).await;
    fixture.grant(id).await;
    let answer = call.await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json::<Lease>().id, id);

    // Nobody comes back for this one.
    let other = with_token(Method::POST, "/v1/leases").header("Idempotency-Key", "job-9");
    let other = other.body(Body::from(order(json!({ "wait_s": 600 }))));
    let call = tokio::spawn(send(fixture.router.clone(), other.unwrap()));
    let waits = |row: &LeaseRow| row.phase == LeasePhase::Waiting;
    let mut changes = fixture.api.store.changes();
    while !fixture
        .api
        .store
        .live_leases()
        .await
        .unwrap()
        .iter()
        .any(waits)
    {
        changes.changed().await.unwrap();
    }
    fixture.api.stopping.cancel();
    call.await.unwrap().problem(503, ErrorCode::NotReady);
    fixture.api.store.close().await;
    let fixture = Fixture::on(fixture.folder).await;
    fixture.api.store.startup().await.unwrap();
    expect_clients_back(&fixture.api).await.unwrap();
    pass(31).await;
    fixture.api.background.close();
    fixture.api.background.wait().await;
    let rows = fixture.api.store.live_leases().await.unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let expected = (row.id != id).then_some(EndReason::ClientGone);
        assert_eq!(row.end_wish, expected);
    }
}
