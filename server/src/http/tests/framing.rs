//! What all answers have in common, and the paths that need no token.

use axum::middleware::from_fn_with_state;
use axum::routing::get;

use super::*;

#[tokio::test]
async fn paths_and_methods_that_are_none_are_problems_too() {
    let fixture = Fixture::new().await;
    for path in [
        "/",
        "/v1",
        "/v1/lease",
        "/v1/leases/",
        "/v2/leases",
        "/healthz/x",
    ] {
        fixture.get(path).await.problem(404, ErrorCode::NotFound);
    }
    for (method, path, allowed) in [
        (Method::PUT, "/v1/leases", "GET,HEAD,POST"),
        (Method::DELETE, "/v1/leases", "GET,HEAD,POST"),
        (
            Method::POST,
            "/v1/leases/l-0000000000007",
            "GET,HEAD,DELETE",
        ),
        (Method::POST, "/healthz", "GET,HEAD"),
        (Method::DELETE, "/readyz", "GET,HEAD"),
    ] {
        let answer = fixture.call(method.clone(), path).await;
        answer.problem(405, ErrorCode::MethodNotAllowed);
        assert_eq!(answer.header("allow"), allowed, "{method} {path}");
    }
}

#[tokio::test]
async fn every_answer_names_its_request() {
    let fixture = Fixture::new().await;
    let drawn = [fixture.get("/healthz").await, fixture.get("/nowhere").await];
    let ids = drawn.each_ref().map(|answer| answer.header("x-request-id"));
    assert!(
        ids.iter().all(|id| id.len() == 15 && id.starts_with("r-")),
        "{ids:?}"
    );
    assert_ne!(ids[0], ids[1]);

    let long = "x".repeat(65);
    for (asked, taken) in [
        ("build-7.step_2", true),
        ("", false),
        ("a b", false),
        ("\"quoted\"", false),
        (long.as_str(), false),
    ] {
        let request = with_token(Method::GET, "/nowhere").header("x-request-id", asked);
        let answer = fixture.send(request.body(Body::empty()).unwrap()).await;
        answer.problem(404, ErrorCode::NotFound);
        assert_eq!(answer.header("x-request-id") == asked, taken, "{asked}");
    }
}

#[tokio::test]
async fn a_panic_is_the_fault_of_its_request_only() {
    let fixture = Fixture::new().await;
    let router = Router::new()
        .route("/now", get(|| async { boom("secret") }))
        .layer(from_fn_with_state(fixture.api.clone(), request::frame));
    let request = || Request::get("/now").body(Body::empty()).unwrap();
    for _ in 0..2 {
        let answer = send(router.clone(), request()).await;
        let problem = answer.problem(500, ErrorCode::Internal);
        assert!(!problem.detail.contains("secret"), "{problem:?}");
    }
}

fn boom(with: &str) -> StatusCode {
    panic!("{with}")
}

#[tokio::test]
async fn alive_needs_nothing_and_ready_says_what_is_missing() {
    let fixture = Fixture::new().await;
    let readiness = &fixture.api.readiness;
    let ask = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        fixture.send(request).await
    };
    let ready = ask("/readyz").await;
    assert_eq!(ready.status, StatusCode::OK);
    assert_eq!(
        ready.json::<Value>(),
        json!({"ready": true, "checks": {"hypervisor": {"state": "ok"}}})
    );

    readiness.set("template 26/small", Check::Degraded("boots cold".into()));
    assert_eq!(ask("/readyz").await.status, StatusCode::OK);
    readiness.set("image", Check::Pending("is being read".into()));
    assert_eq!(ask("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    readiness.set("image", Check::Failed("has another sha256".into()));
    let not_ready = ask("/readyz").await;
    assert_eq!(not_ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        not_ready.json::<Value>(),
        json!({"ready": false, "checks": {
            "hypervisor": {"state": "ok"},
            "image": {"state": "failed", "reason": "has another sha256"},
            "template 26/small": {"state": "degraded", "reason": "boots cold"},
        }})
    );
    let alive = ask("/healthz").await;
    assert_eq!(
        (alive.status, alive.body.as_slice()),
        (StatusCode::OK, &b"ok\n"[..])
    );

    readiness.set("image", Check::Ok);
    assert_eq!(ask("/readyz").await.status, StatusCode::OK);
    fixture.api.stopping.cancel();
    assert_eq!(ask("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn a_server_of_which_nothing_is_known_is_not_ready() {
    assert!(!Readiness::new([]).is_ready());
    assert!(!Readiness::new(["database"]).is_ready());
}
