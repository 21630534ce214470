//! Heartbeats and extensions.

use remote_docker_api::{EndReason, LeaseState};
use time::Duration as Span;
use time::format_description::well_known::Rfc3339;

use super::*;
use crate::lease::LeasePhase;

impl Fixture {
    async fn beat(&self, id: LeaseId) -> Answer {
        let path = format!("/v1/leases/{id}/heartbeat");
        self.call(Method::POST, &path).await
    }

    async fn extend(&self, id: LeaseId, body: Value) -> Answer {
        let path = format!("/v1/leases/{id}/extend");
        let request = with_token(Method::POST, &path).body(Body::from(body.to_string()));
        self.send(request.unwrap()).await
    }

    async fn keep(&self, id: LeaseId, keep_s: i64) -> Answer {
        let path = format!("/v1/leases/{id}/keep");
        let body = json!({ "keep_s": keep_s }).to_string();
        let request = with_token(Method::POST, &path).body(Body::from(body));
        self.send(request.unwrap()).await
    }

    async fn end(&self, id: LeaseId) {
        self.api
            .store
            .wish_end(id, EndReason::Released)
            .await
            .unwrap();
        for _ in 0..3 {
            reconciler::reconcile(&self.api.store).await;
        }
    }
}

#[tokio::test]
async fn a_heartbeat_moves_its_own_deadline_and_no_other() {
    let fixture = Fixture::new().await;
    let lease = fixture.active(json!({ "keepalive_s": 60 })).await;
    assert_eq!(lease.heartbeat_due_at, Some(NOW + Span::seconds(60)));
    fixture.clock.set(NOW + Span::seconds(45));
    let answer = fixture.beat(lease.id).await;
    assert_eq!(answer.status, StatusCode::OK);
    let beaten: Lease = answer.json();
    assert_eq!(beaten.heartbeat_due_at, Some(NOW + Span::seconds(105)));
    assert_eq!(beaten.expires_at, lease.expires_at);
    let path = format!("/v1/leases/{}", lease.id);
    assert_eq!(fixture.get(&path).await.json::<Lease>(), beaten);
    // A clock that was set back takes nothing away.
    fixture.clock.set(NOW);
    let again: Lease = fixture.beat(lease.id).await.json();
    assert_eq!(again.heartbeat_due_at, beaten.heartbeat_due_at);
}

#[tokio::test]
async fn a_machine_that_is_kept_lasts_so_long_whoever_is_there() {
    let fixture = Fixture::new().await;
    let asked = json!({ "ttl_s": 600, "keepalive_s": 60, "idle_s": 120 });
    let lease = fixture.active(asked).await;
    // Less than before, and then more.
    for keep_s in [60, 1200] {
        let kept: Lease = fixture.keep(lease.id, keep_s).await.json();
        assert_eq!(kept.expires_at, Some(NOW + Span::seconds(keep_s)));
        assert_eq!((kept.keepalive_s, kept.idle_s), (None, None));
        assert_eq!(kept.state, LeaseState::Active);
    }
    for keep_s in [0, -1, i64::MAX] {
        let refused = fixture.keep(lease.id, keep_s).await;
        let problem = refused.problem(422, ErrorCode::InvalidExtension);
        assert!(problem.hint.is_some(), "{problem:?}");
    }
    fixture.end(lease.id).await;
    let over = fixture.keep(lease.id, 60).await;
    over.problem(409, ErrorCode::LeaseEnded);
}

#[tokio::test]
async fn heartbeats_and_extensions_that_can_do_nothing_say_why() {
    let fixture = Fixture::new().await;
    let more = || json!({ "remaining_s": 10 });
    let plain = fixture.active(json!({})).await;
    let refused = |answer: Answer, status, code| {
        let problem = answer.problem(status, code);
        assert!(problem.hint.is_some(), "{problem:?}");
    };
    let answer = fixture.beat(plain.id).await;
    refused(answer, 409, ErrorCode::NoKeepalive);

    let body = order(json!({ "wait_s": 0, "keepalive_s": 60 }));
    let waiting: Lease = fixture.post(body).await.json();
    let id = waiting.id;
    let answer = fixture.beat(id).await;
    refused(answer, 409, ErrorCode::LeaseNotActive);
    let answer = fixture.extend(id, more()).await;
    refused(answer, 409, ErrorCode::LeaseNotActive);

    // The wish alone is an end.
    fixture.grant(id).await;
    let path = format!("/v1/leases/{id}");
    fixture.call(Method::DELETE, &path).await;
    for ended in [false, true] {
        if ended {
            fixture.end(id).await;
            let lease: Lease = fixture.get(&path).await.json();
            assert_eq!(lease.state, LeaseState::Ended);
        }
        let answer = fixture.beat(id).await;
        refused(answer, 409, ErrorCode::LeaseEnded);
        let answer = fixture.extend(id, more()).await;
        refused(answer, 409, ErrorCode::LeaseEnded);
    }
    let missing = "l-0000000000007".parse().unwrap();
    let answer = fixture.beat(missing).await;
    refused(answer, 404, ErrorCode::LeaseNotFound);
    let answer = fixture.extend(missing, more()).await;
    refused(answer, 404, ErrorCode::LeaseNotFound);
    let answer = fixture.call(Method::POST, "/v1/leases/x/heartbeat").await;
    refused(answer, 400, ErrorCode::InvalidId);
}

#[tokio::test]
async fn an_extension_is_at_least_until_and_never_shortens() {
    let fixture = Fixture::new().await;
    let lease = fixture.active(json!({ "ttl_s": 600 })).await;
    let end = async |body: Value| {
        let answer = fixture.extend(lease.id, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        (answer.json::<Lease>().expires_at.unwrap() - NOW).whole_seconds()
    };
    fixture.clock.set(NOW + Span::seconds(100));
    assert_eq!(end(json!({ "remaining_s": 10 })).await, 600);
    assert_eq!(end(json!({ "remaining_s": 900 })).await, 1000);
    assert_eq!(end(json!({ "remaining_s": 900 })).await, 1000);
    assert_eq!(end(json!({ "until": "2026-03-01T12:20:00Z" })).await, 1200);
    assert_eq!(
        end(json!({ "until": "2026-03-01T13:20:00+01:00" })).await,
        1200
    );
    assert_eq!(end(json!({ "until": "2020-01-01T00:00:00Z" })).await, 1200);
    // To the very last moment.
    assert_eq!(end(json!({ "remaining_s": 86_300 })).await, 86_400);
    let events = fixture.api.store.events(lease.id, 0).await.unwrap();
    let extended = events.iter().filter(|one| one.kind.as_str() == "extended");
    assert_eq!(extended.count(), 3);
}

#[tokio::test]
async fn an_extension_beyond_what_is_allowed_names_the_latest_moment() {
    let fixture = Fixture::new().await;
    let lease = fixture.active(json!({ "ttl_s": 600 })).await;
    fixture.clock.set(NOW + Span::seconds(100));
    for body in [
        json!({ "remaining_s": 86_301 }),
        json!({ "remaining_s": i64::MAX }),
        json!({ "until": "2026-03-02T12:00:00.000001Z" }),
        json!({ "until": "9999-12-31T23:59:59Z" }),
    ] {
        let answer = fixture.extend(lease.id, body).await;
        let problem = answer.problem(422, ErrorCode::InvalidExtension);
        assert!(
            problem.detail.contains("until 2026-03-02T12:00:00Z"),
            "{problem:?}"
        );
    }
    for (body, words) in [
        (json!({}), "neither"),
        (
            json!({ "remaining_s": 1, "until": "2026-03-01T12:20:00Z" }),
            "both",
        ),
        (json!({ "remaining_s": 0 }), "not above zero"),
        (json!({ "remaining_s": -1 }), "not above zero"),
    ] {
        let answer = fixture.extend(lease.id, body).await;
        let problem = answer.problem(422, ErrorCode::InvalidExtension);
        assert!(problem.detail.contains(words), "{problem:?}");
    }
    for body in [
        json!({ "until": "tomorrow" }),
        json!({ "remaining_s": "10" }),
        json!({ "ttl_s": 10 }),
    ] {
        let answer = fixture.extend(lease.id, body).await;
        answer.problem(400, ErrorCode::InvalidBody);
    }
    let path = format!("/v1/leases/{}", lease.id);
    assert_eq!(fixture.get(&path).await.json::<Lease>(), lease);
}

#[tokio::test]
async fn a_policy_that_was_tightened_takes_nothing_away() {
    let fixture = Fixture::new().await.with(|api| api.lease.max_ttl_s = 300);
    let body = order(json!({ "ttl_s": 300, "wait_s": 0 }));
    let lease: Lease = fixture.post(body).await.json();
    fixture.grant(lease.id).await;
    let fixture = fixture.with(|api| api.lease.max_ttl_s = 60);
    let kept = fixture
        .extend(lease.id, json!({ "remaining_s": 300 }))
        .await;
    assert_eq!(kept.status, StatusCode::OK);
    let more = fixture
        .extend(lease.id, json!({ "remaining_s": 301 }))
        .await;
    more.problem(422, ErrorCode::InvalidExtension);
}

#[tokio::test]
async fn moments_are_told_and_taken_as_the_hosts_clock_has_them() {
    let fixture = Fixture::new().await;
    let body = json!({ "ttl_s": 600, "keepalive_s": 60 });
    let before = fixture.active(body).await;
    let path = format!("/v1/leases/{}", before.id);
    for ahead in [Span::hours(1), Span::hours(-1)] {
        fixture.clock.set_ahead(ahead);
        let lease: Lease = fixture.get(&path).await.json();
        let moments = |lease: &Lease| {
            let due = lease.heartbeat_due_at.unwrap();
            let (ready, end) = (lease.ready_at.unwrap(), lease.expires_at.unwrap());
            [lease.created_at, ready, end, due]
        };
        let told = moments(&before).map(|moment| moment + ahead);
        assert_eq!(moments(&lease), told);
        let same = json!({ "until": told[2].format(&Rfc3339).unwrap() });
        let answer = fixture.extend(lease.id, same).await;
        assert_eq!(answer.json::<Lease>(), lease, "nothing had to be moved");
    }
    fixture.clock.set_ahead(Span::HOUR);
    let later = json!({ "until": "2026-03-01T13:20:00Z" });
    fixture.extend(before.id, later).await;
    let row = fixture.api.store.lease(before.id).await.unwrap().unwrap();
    let LeasePhase::Active(grant) = row.phase else {
        panic!("{row:?}");
    };
    assert_eq!(grant.expires_at, NOW + Span::minutes(20));
    let answer = fixture
        .extend(before.id, json!({ "remaining_s": 86_401 }))
        .await;
    let problem = answer.problem(422, ErrorCode::InvalidExtension);
    assert!(
        problem.detail.contains("2026-03-02T13:00:00Z"),
        "{problem:?}"
    );
}
