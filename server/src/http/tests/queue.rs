//! What those who wait are told.

use remote_docker_api::{Doing, EndReason, LeaseList, LeaseState};
use sha2::{Digest, Sha256};

use super::*;

fn queue(position: u32, estimated_wait_s: Option<u64>) -> Queue {
    Queue {
        position,
        doing: Doing::Queued,
        estimated_wait_s,
    }
}

impl Fixture {
    /// What the reconciler does when it has made a plan.
    fn publish(&self, id: LeaseId, queue: Queue) {
        self.outlook
            .send_replace(Arc::new(BTreeMap::from([(id, queue)])));
    }
}

#[tokio::test]
async fn a_lease_that_waits_shows_its_place_until_it_waits_no_more() {
    let fixture = Fixture::new().await;
    let call = fixture.post(order(json!({ "wait_s": 0 })));
    let tell = async {
        let id = fixture.lease_once(|_| true).await.id;
        fixture.publish(id, queue(3, Some(40)));
    };
    let (answer, ()) = tokio::join!(call, tell);
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let lease: Lease = answer.json();
    assert_eq!(lease.queue, Some(queue(3, Some(40))));

    fixture.publish(lease.id, queue(1, None));
    let path = format!("/v1/leases/{}", lease.id);
    let shown = async || fixture.get(&path).await.json::<Lease>();
    assert_eq!(shown().await.queue, Some(queue(1, None)));
    // The outlook may be behind.
    fixture.grant(lease.id).await;
    assert_eq!(shown().await.queue, None);
    let other: Lease = fixture.post(order(json!({ "wait_s": 0 }))).await.json();
    assert_eq!(other.queue, None);
    fixture.publish(other.id, queue(1, None));
    let path = format!("/v1/leases/{}", other.id);
    fixture.call(Method::DELETE, &path).await;
    let given_back: Lease = fixture.get(&path).await.json();
    assert_eq!(
        (given_back.state, given_back.queue),
        (LeaseState::Ending, None)
    );
}

#[tokio::test]
async fn who_waits_for_an_answer_finds_the_lease_by_what_was_sent() {
    let fixture = Fixture::new().await;
    let body = order(json!({ "wait_s": 0 }));
    let sent: Value = serde_json::from_str(&body).unwrap();
    let sent = Sha256::digest(sent["client_csr_pem"].as_str().unwrap());
    let sent: String = sent.iter().map(|byte| format!("{byte:02x}")).collect();
    let lease: Lease = fixture.post(body).await.json();
    let shown = async || {
        let list: LeaseList = fixture.get("/v1/leases").await.json();
        list.leases[0].csr_sha256.clone()
    };
    assert_eq!(shown().await, Some(sent));
    // Nobody waits any more.
    fixture.grant(lease.id).await;
    assert_eq!(shown().await, None);
}

#[tokio::test]
async fn no_capacity_says_how_far_one_had_come_and_when_to_come_back() {
    for (known, words, retry_after) in [
        (
            Some(queue(2, Some(40))),
            "; it was number 2 in the queue, with about 40 s to wait",
            "40",
        ),
        (
            Some(queue(7, None)),
            "; it was number 7 in the queue: ",
            "10",
        ),
        (Some(queue(2, Some(0))), "about 0 s", "1"),
        (Some(queue(2, Some(u64::MAX))), "number 2", "600"),
        (None, "became ready in time: ", "10"),
    ] {
        let fixture = Fixture::new().await;
        let call = fixture.post(order(json!({ "wait_s": 1 })));
        let tell = async {
            let id = fixture.lease_once(|_| true).await.id;
            if let Some(known) = known {
                fixture.publish(id, known);
            }
        };
        let (answer, ()) = tokio::join!(call, tell);
        let problem = answer.problem(503, ErrorCode::NoCapacity);
        assert!(problem.detail.contains(words), "{words}: {problem:?}");
        assert_eq!(answer.header("retry-after"), retry_after);
    }
}

#[tokio::test]
async fn who_waited_for_the_quota_is_told_so() {
    let fixture = Fixture::new().await;
    let call = fixture.post(order(json!({ "wait_s": 1 })));
    let tell = async {
        let id = fixture.lease_once(|_| true).await.id;
        let quota = Queue {
            doing: Doing::Quota,
            ..queue(4, None)
        };
        fixture.publish(id, quota);
    };
    let (answer, ()) = tokio::join!(call, tell);
    let problem = answer.problem(429, ErrorCode::QuotaExceeded);
    assert!(problem.detail.contains("project `default`"), "{problem:?}");
    assert!(problem.detail.contains("number 4"), "{problem:?}");
    assert!(problem.hint.is_some());
    assert_eq!(answer.header("retry-after"), "10");
}

#[tokio::test]
async fn who_waited_for_the_quota_is_told_so_when_the_reconciler_was_quicker_as_well() {
    let fixture = Fixture::new().await;
    let mut config = fixture.config();
    let project = config.projects.entry("default".to_owned()).or_default();
    project.max_leases = Some(1);
    let fixture = fixture.with(|api| api.projects = Projects::new(&config));
    // Nobody has told where it stands, or not any more.
    let ask = async || fixture.post(order(json!({ "wait_s": 1 }))).await;
    ask().await.problem(503, ErrorCode::NoCapacity);
    fixture.active(json!({})).await;
    ask().await.problem(429, ErrorCode::QuotaExceeded);
}

#[tokio::test]
async fn machines_that_would_not_start_are_told_with_what_they_said() {
    let long = format!("{}the end", "x".repeat(100_000));
    for (detail, words) in [
        (
            Some("dockerd died: no space left"),
            "to become ready: dockerd died: no space left",
        ),
        (None, "failed to become ready"),
        (Some(long.as_str()), "xxxthe end"),
    ] {
        let fixture = Fixture::new().await;
        let call = fixture.post(order(json!({ "wait_s": 600 })));
        let end = async {
            let row = fixture.lease_once(|_| true).await;
            let store = &fixture.api.store;
            let ended = store.end_lease(&row, EndReason::StartFailed, detail, NOW);
            ended.await.unwrap().unwrap();
        };
        let (answer, ()) = tokio::join!(call, end);
        let problem: Problem = answer.json();
        assert_eq!(
            (problem.status, problem.code),
            (503, ErrorCode::StartFailed)
        );
        assert!(problem.detail.ends_with(words), "{problem:?}");
        assert!(problem.detail.len() < 5000);
        assert_eq!(answer.header("retry-after"), "10");
    }
}
