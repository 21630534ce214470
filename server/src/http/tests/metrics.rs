//! `/metrics`.

use remote_docker_api::{EndReason, StepTiming};

use super::*;

impl Fixture {
    async fn metrics(&self) -> String {
        let answer = self.get("/metrics").await;
        assert_eq!(answer.status, StatusCode::OK);
        let kind = answer.header("content-type");
        assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
        String::from_utf8(answer.body).unwrap()
    }
}

#[track_caller]
fn assert_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(
            text.lines().any(|one| one == *line),
            "{line} not in\n{text}"
        );
    }
}

#[tokio::test]
async fn what_was_done_and_what_is_there_is_counted() {
    let fixture = Fixture::new().await;
    fixture.active(json!({})).await;
    fixture.active(json!({ "engine": "28" })).await;
    fixture.post(order(json!({ "wait_s": 0 }))).await;
    fixture.post("nonsense").await;
    let brew = Method::from_bytes(b"BREW").unwrap();
    fixture.call(brew, "/v1/coffee").await;
    let metrics = &fixture.api.metrics;
    metrics.set_memory_budget(4096);
    let step = StepTiming {
        step: "clone".to_owned(),
        duration_ms: 300,
    };
    metrics.lease_ready(Duration::from_millis(700), false, &[step]);
    metrics.lease_ended(EndReason::KeepaliveMissed);
    metrics.round(Duration::from_millis(3));
    metrics.failed();

    let text = fixture.metrics().await;
    assert_lines(
        &text,
        &[
            r#"remote_dockerd_http_requests_total{method="POST",route="/v1/leases",status="202"} 3"#,
            r#"remote_dockerd_http_requests_total{method="POST",route="/v1/leases",status="400"} 1"#,
            r#"remote_dockerd_http_requests_total{method="other",route="unknown",status="404"} 1"#,
            r#"remote_dockerd_vms{engine="26",size="small",phase="assigned"} 1"#,
            r#"remote_dockerd_vms{engine="28",size="small",phase="assigned"} 1"#,
            r#"remote_dockerd_leases{state="active"} 2"#,
            r#"remote_dockerd_leases{state="waiting"} 1"#,
            r#"remote_dockerd_leases{state="ending"} 0"#,
            "remote_dockerd_vm_memory_bytes 2147483648",
            "remote_dockerd_vm_memory_budget_bytes 4294967296",
            r#"remote_dockerd_start_step_duration_seconds_sum{step="clone"} 0.3"#,
            r#"remote_dockerd_start_step_duration_seconds_count{step="clone"} 1"#,
            r#"remote_dockerd_lease_ready_duration_seconds_count{warm="false"} 1"#,
            r#"remote_dockerd_leases_ended_total{reason="keepalive_missed"} 1"#,
            "remote_dockerd_reconcile_round_duration_seconds_count 1",
            "remote_dockerd_reconcile_failures_total 1",
            "# EOF",
        ],
    );
    // What is no more is not shown as it was.
    for row in fixture.api.store.live_leases().await.unwrap() {
        let store = &fixture.api.store;
        store.wish_end(row.id, EndReason::Released).await.unwrap();
    }
    for _ in 0..3 {
        reconciler::reconcile(&fixture.api.store).await;
    }
    let text = fixture.metrics().await;
    assert!(!text.contains("remote_dockerd_vms{"), "{text}");
    assert_lines(
        &text,
        &[
            r#"remote_dockerd_leases{state="active"} 0"#,
            "remote_dockerd_vm_memory_bytes 0",
        ],
    );
}

#[tokio::test]
async fn numbers_need_a_token_unless_they_are_public() {
    let fixture = Fixture::new().await;
    let bare = || Request::get("/metrics").body(Body::empty()).unwrap();
    let answer = fixture.send(bare()).await;
    answer.problem(401, ErrorCode::Unauthorized);
    let fixture = fixture.with(|api| api.metrics_public = true);
    assert_eq!(fixture.send(bare()).await.status, StatusCode::OK);
    let posted = fixture.call(Method::POST, "/metrics").await;
    posted.problem(405, ErrorCode::MethodNotAllowed);
}
