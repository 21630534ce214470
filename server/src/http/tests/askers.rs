//! What the credential of a lease is good for when the token that the lease was asked for with is good for
//! nothing any more.

use super::*;
use crate::access::LeaseTokens;

const PROLONGS: [(&str, &str); 3] = [
    ("heartbeat", ""),
    ("extend", r#"{"remaining_s": 7200}"#),
    ("keep", r#"{"keep_s": 60}"#),
];

struct Scene {
    fixture: Fixture,
    lease: LeaseId,
    own: String,
}

impl Scene {
    /// A lease that was asked for with this token of the project `a`, or with the operator's.
    async fn new(name: Option<&str>, good_for: Option<Duration>) -> Self {
        let leases = LeaseTokens::with_key(b"a key of tests");
        let fixture = Fixture::new().await;
        let fixture = fixture.authenticated(|authenticator| authenticator.with_leases(leases));
        let token = match name {
            Some(name) => create(&fixture, name, good_for),
            None => TOKEN.to_owned(),
        };
        let body = order(json!({ "wait_s": 0, "keepalive_s": 60 }));
        let lease: Lease = call(&fixture, &token, Method::POST, "/v1/leases", body)
            .await
            .json();
        fixture.grant(lease.id).await;
        Self {
            fixture,
            lease: lease.id,
            own: lease.token.unwrap().reveal().to_owned(),
        }
    }

    async fn with(&self, token: &str, verb: &str, body: &str) -> Answer {
        let path = format!("/v1/leases/{}/{verb}", self.lease);
        call(&self.fixture, token, Method::POST, &path, body.to_owned()).await
    }

    async fn by_itself(&self, verb: &str, body: &str) -> Answer {
        self.with(&self.own, verb, body).await
    }

    async fn is_refused(&self, status: u16, code: ErrorCode) {
        let row = async || {
            let row = self.fixture.api.store.lease(self.lease).await;
            row.unwrap().unwrap()
        };
        let before = row().await;
        for (verb, body) in PROLONGS {
            let problem = self.by_itself(verb, body).await.problem(status, code);
            assert!(
                problem.detail.contains(&self.lease.to_string()),
                "{problem:?}"
            );
            assert!(problem.hint.is_some());
        }
        assert_eq!(row().await, before, "nothing has moved");
    }
}

fn create(fixture: &Fixture, name: &str, good_for: Option<Duration>) -> String {
    let new = NewToken {
        name: name.to_owned(),
        project: "a".to_owned(),
        good_for,
        scopes: Vec::new(),
    };
    command::create(&fixture.config(), new, NOW).unwrap().token
}

async fn call(fixture: &Fixture, token: &str, method: Method, path: &str, body: String) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {token}"));
    fixture.send(request.body(Body::from(body)).unwrap()).await
}

#[tokio::test]
async fn a_lease_whose_token_was_taken_back_keeps_itself_no_longer() {
    let scene = Scene::new(Some("ci"), None).await;
    for (verb, body) in &PROLONGS[..2] {
        let answer = scene.by_itself(verb, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{verb}: {answer:?}");
    }
    let fixture = &scene.fixture;
    command::revoke(&fixture.config(), "ci", NOW).unwrap();
    scene.is_refused(401, ErrorCode::TokenRevoked).await;
    // A name is no token: the one that has it now is another.
    let next = create(fixture, "ci", None);
    scene.is_refused(401, ErrorCode::TokenRevoked).await;

    // Who has a good token of the project may keep it, and its own credential still shows it and gives it back.
    let kept = scene.with(&next, "heartbeat", "").await;
    assert_eq!(kept.status, StatusCode::OK, "{kept:?}");
    let path = format!("/v1/leases/{}", scene.lease);
    for (method, status) in [
        (Method::GET, StatusCode::OK),
        (Method::DELETE, StatusCode::NO_CONTENT),
    ] {
        let answer = call(fixture, &scene.own, method, &path, String::new()).await;
        assert_eq!(answer.status, status);
    }
}

#[tokio::test]
async fn a_lease_whose_tokens_time_is_over_keeps_itself_no_longer() {
    let scene = Scene::new(Some("ci"), Some(Duration::from_secs(3600))).await;
    scene.fixture.clock.set_ahead(time::Duration::seconds(3600));
    scene.is_refused(401, ErrorCode::TokenExpired).await;
}

#[tokio::test]
async fn a_lease_keeps_itself_no_longer_while_nobody_can_tell_whether_its_token_is_good() {
    let scene = Scene::new(Some("ci"), None).await;
    let file = scene.fixture.folder.path().join("tokens.json");
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, "{").unwrap();
    scene.is_refused(503, ErrorCode::NotReady).await;
    // The book knows it no more.
    std::fs::remove_file(&file).unwrap();
    scene.is_refused(401, ErrorCode::Unauthorized).await;
    std::fs::write(&file, good).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let answer = scene.by_itself("heartbeat", "").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

#[tokio::test]
async fn the_operators_leases_keep_themselves_whatever_tokens_there_are() {
    let scene = Scene::new(None, None).await;
    for (verb, body) in PROLONGS {
        let answer = scene.by_itself(verb, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{verb}: {answer:?}");
    }
}
