//! Each project sees its own leases and no other.

use remote_docker_api::{Egress, LeaseList};

use super::*;

fn by(token: &str, method: Method, path: &str, body: &str) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header("Idempotency-Key", "the-same")
        .body(Body::from(body.to_owned()))
        .unwrap()
}

#[tokio::test]
async fn a_lease_of_another_project_is_not_there() {
    let fixture = Fixture::new().await;
    let other = fixture.token("theirs", "a", &[Scope::Lease]);
    let body = order(json!({ "wait_s": 0, "keepalive_s": 60 }));
    let ask = async |token: &str| {
        let request = by(token, Method::POST, "/v1/leases", &body);
        fixture.send(request).await.json::<Lease>()
    };
    // A key belongs to its project, too.
    let (ours, theirs) = (ask(TOKEN).await, ask(&other).await);
    assert_ne!(ours.id, theirs.id);
    let row = fixture.api.store.lease(theirs.id).await.unwrap().unwrap();
    assert_eq!(row.project, "a");
    fixture.grant(ours.id).await;
    fixture.grant(theirs.id).await;

    let path = format!("/v1/leases/{}", theirs.id);
    for (method, verb) in [
        (Method::GET, ""),
        (Method::DELETE, ""),
        (Method::POST, "/heartbeat"),
        (Method::POST, "/extend"),
        (Method::POST, "/keep"),
        (Method::GET, "/events"),
        (Method::GET, "/logs"),
    ] {
        let path = format!("{path}{verb}");
        let body = match verb {
            "/keep" => r#"{"keep_s": 10}"#,
            _ => r#"{"remaining_s": 10}"#,
        };
        let foreign = fixture.send(by(TOKEN, method.clone(), &path, body)).await;
        let foreign = foreign.problem(404, ErrorCode::LeaseNotFound);
        // Nothing tells it from one that never was.
        let none = "/v1/leases/l-0000000000007";
        let path = format!("{none}{verb}");
        let missing = fixture.send(by(TOKEN, method, &path, body)).await;
        let missing = missing.problem(404, ErrorCode::LeaseNotFound);
        assert_eq!(missing.hint, foreign.hint);
        let (ours, theirs) = ("l-0000000000007", theirs.id.to_string());
        assert_eq!(missing.detail.replace(ours, &theirs), foreign.detail);
    }
    assert_eq!(
        fixture
            .api
            .store
            .lease(theirs.id)
            .await
            .unwrap()
            .unwrap()
            .end_wish,
        None
    );
    for (token, id) in [(TOKEN, ours.id), (other.as_str(), theirs.id)] {
        let request = by(token, Method::GET, "/v1/leases", "");
        let list: LeaseList = fixture.send(request).await.json();
        let ids: Vec<_> = list.leases.iter().map(|lease| lease.id).collect();
        assert_eq!(ids, [id]);
    }
    let own = fixture.send(by(&other, Method::DELETE, &path, "")).await;
    assert_eq!(own.status, StatusCode::NO_CONTENT);
}

/// The default project may have small machines, for a minute.
async fn limited() -> Fixture {
    let fixture = Fixture::new().await;
    let mut config = fixture.config();
    let project = config.projects.entry("default".to_owned()).or_default();
    project.max_ttl_s = Some(60);
    project.sizes = Some(vec!["small".to_owned()]);
    config.validate().unwrap();
    fixture.with(|api| api.projects = Projects::new(&config))
}

#[tokio::test]
async fn a_project_reaches_no_more_than_its_table_says() {
    let fixture = Fixture::new().await;
    let mut config = Config::from_toml(
        "network.egress = ['none', 'internet', 'open']\nnetwork.default_egress = 'open'\n\
         projects.default.egress = 'internet'\nprojects.a.egress = 'none'\n[projects.b]",
        std::path::Path::new("test.toml"),
    )
    .unwrap();
    config.state_dir = fixture.config().state_dir;
    config.validate().unwrap();
    let fixture = fixture.with(|api| {
        api.projects = Projects::new(&config);
        api.egress = config.network.egress_offer();
    });
    let tokens = [
        ("default", TOKEN.to_owned()),
        ("a", fixture.token("ta", "a", &[])),
        ("b", fixture.token("tb", "b", &[])),
    ];
    use Egress::{Internet, None, Open};
    // What each may ask for, the most open last: that is what it gets when it asks for nothing.
    for ((project, token), allowed) in
        tokens
            .iter()
            .zip([vec![None, Internet], vec![None], vec![None, Internet, Open]])
    {
        for asked in Egress::ALL.map(Some).into_iter().chain([Option::None]) {
            let body = order(json!({ "egress": asked, "wait_s": 0 }));
            let request = Request::builder()
                .method(Method::POST)
                .uri("/v1/leases")
                .header(header::AUTHORIZATION, format!("Bearer {token}"))
                .body(Body::from(body))
                .unwrap();
            let answer = fixture.send(request).await;
            let meant = asked.unwrap_or(*allowed.last().unwrap());
            if allowed.contains(&meant) {
                let lease: Lease = answer.json();
                assert_eq!(lease.egress, Some(meant), "{project} {asked:?}");
            } else {
                let problem = answer.problem(403, ErrorCode::NotAllowed);
                let words: Vec<&str> = allowed.iter().map(|policy| policy.as_str()).collect();
                assert_eq!(
                    problem.detail,
                    format!(
                        "the project `{project}` may not have a machine with the network policy `{meant}`; it may \
                         have: {}",
                        words.join(", ")
                    )
                );
            }
        }
    }
}

#[tokio::test]
async fn a_project_gets_no_more_than_its_table_says() {
    let fixture = limited().await;
    let large = order(json!({ "size": "large", "wait_s": 0 }));
    let refused = fixture.post(large.clone()).await;
    let problem = refused.problem(403, ErrorCode::NotAllowed);
    let detail = "the project `default` may not have a machine of size `large`; it may have: small";
    assert_eq!(problem.detail, detail);
    assert!(problem.hint.is_some());
    let long = order(json!({ "ttl_s": 61, "wait_s": 0 }));
    let refused = fixture.post(long).await;
    let problem = refused.problem(422, ErrorCode::InvalidTtl);
    assert!(problem.detail.contains("1 to 60"), "{problem:?}");
    fixture.assert_no_lease().await;

    // Who says nothing gets what may be had.
    let lease = fixture.active(json!({})).await;
    assert_eq!((lease.size.as_str(), lease.ttl_s), ("small", 60));
    for (verb, body) in [
        ("extend", r#"{"remaining_s": 61}"#),
        ("keep", r#"{"keep_s": 61}"#),
    ] {
        let path = format!("/v1/leases/{}/{verb}", lease.id);
        let request = by(TOKEN, Method::POST, &path, body);
        let problem = fixture.send(request).await;
        problem.problem(422, ErrorCode::InvalidExtension);
    }

    // Others have tables of their own.
    let other = fixture.token("theirs", "a", &[Scope::Lease]);
    let request = by(&other, Method::POST, "/v1/leases", &large);
    let lease: Lease = fixture.send(request).await.json();
    assert_eq!((lease.size.as_str(), lease.ttl_s), ("large", 3600));
}
