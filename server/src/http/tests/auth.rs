//! Only the right token opens the API, in exactly one header of the right form.

use super::*;
use crate::access::Scopes;

fn request(method: Method, path: &str, authorization: &[&str]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for value in authorization {
        request = request.header(header::AUTHORIZATION, *value);
    }
    request
        .body(Body::from(order(json!({ "wait_s": 0 }))))
        .unwrap()
}

#[tokio::test]
async fn no_call_is_served_without_the_token() {
    let fixture = Fixture::new().await;
    let good = format!("Bearer {TOKEN}");
    let (longer, shorter) = (format!("{good}0"), &good[..good.len() - 1]);
    let upper = good.replace("abc", "ABC");
    let basic = format!("Basic {TOKEN}");
    for (values, challenge) in [
        (vec![], "Bearer"),
        (vec![""], "Bearer"),
        (vec!["Bearer"], "Bearer"),
        (vec!["Bearer "], "Bearer"),
        (vec![TOKEN], "Bearer"),
        (vec![basic.as_str()], "Bearer"),
        (vec!["Bearer wrong"], "Bearer error=\"invalid_token\""),
        (vec![longer.as_str()], "Bearer error=\"invalid_token\""),
        (vec![shorter], "Bearer error=\"invalid_token\""),
        (vec![upper.as_str()], "Bearer error=\"invalid_token\""),
        (vec!["Bearer a b"], "Bearer error=\"invalid_token\""),
        (
            vec![good.as_str(), "Bearer wrong"],
            "Bearer error=\"invalid_token\"",
        ),
    ] {
        for (method, path) in [
            (Method::POST, "/v1/leases"),
            (Method::GET, "/v1/leases"),
            (Method::GET, "/v1/leases/l-0000000000007"),
            (Method::DELETE, "/v1/leases/l-0000000000007"),
            // What the path takes is nobody's business either.
            (Method::PUT, "/v1/leases"),
        ] {
            let answer = fixture.send(request(method, path, &values)).await;
            let problem = answer.problem(401, ErrorCode::Unauthorized);
            assert_eq!(answer.header("www-authenticate"), challenge, "{values:?}");
            assert!(problem.hint.is_some());
            assert!(!String::from_utf8_lossy(&answer.body).contains(TOKEN));
        }
    }
    fixture.assert_no_lease().await;
}

#[tokio::test]
async fn the_token_opens_whatever_the_case_of_its_scheme() {
    let fixture = Fixture::new().await;
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let value = format!("{scheme} {TOKEN}");
        let answer = fixture
            .send(request(Method::POST, "/v1/leases", &[&value]))
            .await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{scheme}");
    }
}

#[tokio::test]
async fn a_wrong_token_is_told_before_the_body_is_read() {
    let fixture = Fixture::new().await;
    let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let request = Request::post("/v1/leases").body(Body::from_stream(never));
    let answer = fixture.send(request.unwrap()).await;
    answer.problem(401, ErrorCode::Unauthorized);
}

const CALLS: [(&str, &str, Scope); 10] = [
    ("POST", "/v1/leases", Scope::Lease),
    ("DELETE", "/v1/leases/l-0000000000007", Scope::Lease),
    ("POST", "/v1/leases/l-0000000000007/heartbeat", Scope::Lease),
    ("POST", "/v1/leases/l-0000000000007/extend", Scope::Lease),
    ("POST", "/v1/leases/l-0000000000007/keep", Scope::Lease),
    ("GET", "/v1/leases", Scope::Read),
    ("GET", "/v1/leases/l-0000000000007", Scope::Read),
    ("GET", "/v1/leases/l-0000000000007/events", Scope::Read),
    ("GET", "/v1/leases/l-0000000000007/logs", Scope::Read),
    ("GET", "/metrics", Scope::Metrics),
];

impl Fixture {
    async fn call_with(&self, token: &str, method: &str, path: &str) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let value = format!("Bearer {token}");
        self.send(request(method, path, &[&value])).await
    }
}

#[tokio::test]
async fn a_token_is_good_for_what_it_was_made_for_and_nothing_else() {
    let fixture = Fixture::new().await;
    for bits in 1..8_usize {
        let has = |(place, _): &(usize, Scope)| bits & (1 << place) != 0;
        let scopes = Scope::ALL.into_iter().enumerate().filter(has);
        let scopes: Vec<Scope> = scopes.map(|(_, scope)| scope).collect();
        let name = format!("t{bits}");
        let token = fixture.token(&name, "default", &scopes);
        let scopes = Scopes::of(scopes);
        for (method, path, needed) in CALLS {
            let answer = fixture.call_with(&token, method, path).await;
            if scopes.allow(needed) {
                assert!(
                    ![401, 403].contains(&answer.status.as_u16()),
                    "{method} {path} with {scopes}: {answer:?}"
                );
            } else {
                let problem = answer.problem(403, ErrorCode::MissingScope);
                let words = [format!("token {name}"), format!("`{needed}`")];
                let told = words.iter().all(|word| problem.detail.contains(word));
                assert!(told && problem.hint.is_some(), "{problem:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_token_is_refused_from_the_next_request_on_when_it_was_taken_back() {
    let fixture = Fixture::new().await;
    let token = fixture.token("ci", "a", &[]);
    let answer = fixture.call_with(&token, "GET", "/v1/leases").await;
    assert_eq!(answer.status, StatusCode::OK);
    command::revoke(&fixture.config(), "ci", NOW).unwrap();
    for (method, path, _) in CALLS {
        let answer = fixture.call_with(&token, method, path).await;
        let problem = answer.problem(401, ErrorCode::TokenRevoked);
        assert!(problem.detail.contains("`ci`"), "{problem:?}");
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, "Bearer error=\"invalid_token\"");
        assert_eq!(answer.header("connection"), "close");
    }
    // Others go on, and who has not the secret is told nothing of it.
    let operators = fixture.get("/v1/leases").await;
    assert_eq!(operators.status, StatusCode::OK);
    let near = format!("{}0", &token[..token.len() - 1]);
    let near = if near == token {
        format!("{token}0")
    } else {
        near
    };
    let answer = fixture.call_with(&near, "GET", "/v1/leases").await;
    let problem = answer.problem(401, ErrorCode::Unauthorized);
    assert!(!problem.detail.contains("ci"), "{problem:?}");
}

#[tokio::test]
async fn a_token_is_refused_when_its_time_is_over_by_the_hosts_clock() {
    let fixture = Fixture::new().await;
    let new = NewToken {
        name: "ci".to_owned(),
        project: "a".to_owned(),
        good_for: Some(Duration::from_secs(3600)),
        scopes: Vec::new(),
    };
    let token = command::create(&fixture.config(), new, NOW).unwrap().token;
    let ask = async || fixture.call_with(&token, "GET", "/v1/leases").await;
    fixture.clock.set_ahead(time::Duration::seconds(3599));
    assert_eq!(ask().await.status, StatusCode::OK);
    fixture.clock.set_ahead(time::Duration::seconds(3600));
    let problem = ask().await.problem(401, ErrorCode::TokenExpired);
    assert!(
        problem.detail.contains("2026-03-01T13:00:00Z"),
        "{problem:?}"
    );
    assert!(problem.hint.is_some());
}

#[tokio::test]
async fn a_token_of_a_project_that_is_no_more_opens_nothing() {
    let fixture = Fixture::new().await;
    let token = fixture.token("ci", "b", &[]);
    let clock = fixture.clock.clone();
    let tokens = Tokens::open(fixture.folder.path().join("tokens.json")).unwrap();
    let fixture = fixture.with(|api| {
        let operators = TokenHash::of(TOKEN.as_bytes());
        api.authenticator = Authenticator::new(operators, tokens, ["a".to_owned()], clock);
    });
    for (method, path, _) in CALLS {
        let answer = fixture.call_with(&token, method, path).await;
        let problem = answer.problem(403, ErrorCode::UnknownProject);
        assert!(problem.detail.contains("`b`"), "{problem:?}");
    }
    fixture.assert_no_lease().await;
}

#[tokio::test]
async fn tokens_that_cannot_be_read_open_nothing_but_the_operators_does() {
    let fixture = Fixture::new().await;
    let token = fixture.token("ci", "a", &[]);
    let file = fixture.folder.path().join("tokens.json");
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, "{").unwrap();
    for shown in [token.as_str(), "rdt_wrong"] {
        let answer = fixture.call_with(shown, "GET", "/v1/leases").await;
        let problem = answer.problem(503, ErrorCode::NotReady);
        assert!(problem.hint.unwrap().contains("/readyz"));
        assert_eq!(answer.header("connection"), "close");
    }
    assert_eq!(fixture.get("/v1/leases").await.status, StatusCode::OK);
    let ready = fixture.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::OK);
    let report: Value = ready.json();
    assert_eq!(report["checks"]["tokens"]["state"], "degraded");
    let reason = report["checks"]["tokens"]["reason"].as_str().unwrap();
    assert!(reason.contains("tokens.json"), "{reason}");

    std::fs::write(&file, good).unwrap();
    let answer = fixture.call_with(&token, "GET", "/v1/leases").await;
    assert_eq!(answer.status, StatusCode::OK);
    let report: Value = fixture.get("/readyz").await.json();
    assert_eq!(report["checks"]["tokens"], Value::Null);
}

#[tokio::test]
async fn an_endless_token_is_compared_with_nothing() {
    let fixture = Fixture::new().await;
    for length in [1 << 10, 60 << 10] {
        let endless = format!("{TOKEN}{}", "0".repeat(length));
        let answer = fixture.call_with(&endless, "GET", "/v1/leases").await;
        answer.problem(401, ErrorCode::Unauthorized);
    }
}
