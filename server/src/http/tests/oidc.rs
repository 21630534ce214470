//! Credentials that nobody stores: tokens of CI systems, and those of single leases.

use super::*;
use crate::access::LeaseTokens;
use crate::oidc::tests::{Signer, changed, jwks, terms};
use crate::oidc::{Issuers, Place, Proxies, Source};

/// An API that takes the tokens of one issuer, whose keys are in a file.
async fn with_issuer(signer: &Signer) -> Fixture {
    let fixture = Fixture::new().await;
    let file = fixture.folder.path().join("jwks.json");
    std::fs::write(&file, jwks(&[signer.jwk("k")])).unwrap();
    let source = Source {
        place: Place::File(file),
        ca_file: None,
    };
    let mut terms = terms();
    terms.rules[0].project = "a".to_owned();
    let clock: Arc<dyn Clock> = fixture.clock.clone();
    let issuers = Issuers::new([(terms, source)], &Proxies::default(), &clock).unwrap();
    fixture.authenticated(|authenticator| authenticator.with_issuers(issuers))
}

/// An API that gives each lease a credential.
async fn with_leases() -> Fixture {
    let leases = LeaseTokens::with_key(b"a key of tests");
    let fixture = Fixture::new().await;
    fixture.authenticated(|authenticator| authenticator.with_leases(leases))
}

impl Fixture {
    pub(super) fn authenticated(self, change: impl FnOnce(Authenticator) -> Authenticator) -> Self {
        let tokens = Tokens::open(self.folder.path().join("tokens.json")).unwrap();
        let clock = self.clock.clone();
        self.with(|api| {
            let operators = TokenHash::of(TOKEN.as_bytes());
            let projects = PROJECTS.map(str::to_owned);
            let known = Authenticator::new(operators, tokens, projects, clock);
            api.authenticator = change(known);
        })
    }

    async fn as_bearer(&self, token: &str, method: Method, path: &str, body: String) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {token}"));
        self.send(request.body(Body::from(body)).unwrap()).await
    }

    async fn get_as(&self, token: &str, path: &str) -> Answer {
        self.as_bearer(token, Method::GET, path, String::new())
            .await
    }
}

const HEADER: &str = r#"{"alg":"ES256","kid":"k"}"#;

#[tokio::test]
async fn a_job_gets_the_leases_of_the_project_that_a_rule_gives_it() {
    let signer = Signer::p256();
    let fixture = with_issuer(&signer).await;
    let token = signer.token(HEADER, &changed(&json!({})).to_string());
    let body = order(json!({ "wait_s": 0 }));
    let made = fixture
        .as_bearer(&token, Method::POST, "/v1/leases", body)
        .await;
    assert_eq!(made.status, StatusCode::ACCEPTED, "{made:?}");
    let row = fixture.lease_once(|_| true).await;
    assert_eq!(row.project, "a");
    let list: Value = fixture.get_as(&token, "/v1/leases").await.json();
    assert_eq!(list["leases"].as_array().unwrap().len(), 1);
    // It is for leases and nothing else, and not the project `default`'s.
    let answer = fixture.get_as(&token, "/metrics").await;
    answer.problem(403, ErrorCode::MissingScope);
    let list: Value = fixture.get("/v1/leases").await.json();
    assert_eq!(list["leases"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn a_job_that_is_not_let_in_is_told_why_and_gets_nothing() {
    let signer = Signer::p256();
    let fixture = with_issuer(&signer).await;
    let thief = Signer::p256();
    let good = changed(&json!({})).to_string();
    let with = |changes: Value| signer.token(HEADER, &changed(&changes).to_string());
    for (token, status, code, words) in [
        (
            thief.token(HEADER, &good),
            401,
            ErrorCode::OidcRefused,
            "signature",
        ),
        (
            signer.token(r#"{"alg":"none"}"#, &good),
            401,
            ErrorCode::OidcRefused,
            "RS256",
        ),
        (
            with(json!({ "exp": 1 })),
            401,
            ErrorCode::OidcRefused,
            "expired",
        ),
        (
            with(json!({ "aud": "x" })),
            401,
            ErrorCode::OidcRefused,
            "audience",
        ),
        (
            with(json!({ "iss": "https://x" })),
            401,
            ErrorCode::OidcRefused,
            "issuer",
        ),
        (
            with(json!({ "project_path": "x" })),
            403,
            ErrorCode::OidcNoRule,
            "project_path",
        ),
    ] {
        let body = order(json!({ "wait_s": 0 }));
        let answer = fixture
            .as_bearer(&token, Method::POST, "/v1/leases", body)
            .await;
        let problem = answer.problem(status, code);
        assert!(problem.detail.contains(words), "{problem:?}");
        assert!(problem.hint.is_some());
        assert_eq!(answer.header("connection"), "close");
        assert!(!String::from_utf8_lossy(&answer.body).contains(&token));
    }
    fixture.assert_no_lease().await;
    // Where no issuer is named a token of one is none.
    let fixture = Fixture::new().await;
    let answer = fixture.get_as(&with(json!({})), "/v1/leases").await;
    answer.problem(401, ErrorCode::Unauthorized);
}

#[tokio::test]
async fn a_job_whose_issuer_is_away_is_asked_to_come_back() {
    let signer = Signer::p256();
    let fixture = with_issuer(&signer).await;
    std::fs::remove_file(fixture.folder.path().join("jwks.json")).unwrap();
    let token = signer.token(HEADER, &changed(&json!({})).to_string());
    let answer = fixture.get_as(&token, "/v1/leases").await;
    answer.problem(503, ErrorCode::OidcUnavailable);
    answer.header("retry-after");
}

#[tokio::test]
async fn the_credential_of_a_lease_opens_that_lease_and_nothing_else() {
    let fixture = with_leases().await;
    let mine = fixture.active(json!({ "keepalive_s": 60 })).await;
    let other = fixture.active(json!({})).await;
    // Whoever looks at a lease is not told.
    assert_eq!((&mine.token, &other.token), (&None, &None));
    let key = json!({ "wait_s": 0 });
    let made = fixture.post(order(key)).await;
    let third: Lease = made.json();
    let token = third.token.clone().unwrap();
    assert!(!format!("{third:?}").contains(token.reveal()), "{third:?}");
    let token = token.reveal();
    fixture.grant(third.id).await;

    let path = format!("/v1/leases/{}", third.id);
    assert_eq!(fixture.get_as(token, &path).await.status, StatusCode::OK);
    let more = fixture
        .as_bearer(
            token,
            Method::POST,
            &format!("{path}/extend"),
            json!({ "remaining_s": 60 }).to_string(),
        )
        .await;
    assert_eq!(more.status, StatusCode::OK, "{more:?}");

    let others = format!("/v1/leases/{}", mine.id);
    let encoded = path.replace("l-", "%6C-");
    for (method, path) in [
        (Method::GET, "/v1/leases"),
        (Method::POST, "/v1/leases"),
        (Method::GET, others.as_str()),
        (Method::DELETE, others.as_str()),
        (Method::GET, &format!("{path}0")),
        (Method::GET, &encoded),
        (Method::GET, "/metrics"),
    ] {
        let answer = fixture
            .as_bearer(token, method.clone(), path, order(json!({ "wait_s": 0 })))
            .await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}");
        answer.problem(403, ErrorCode::MissingScope);
    }
    let forged = token.replace(&third.id.to_string(), &mine.id.to_string());
    let answer = fixture.get_as(&forged, &others).await;
    answer.problem(401, ErrorCode::Unauthorized);

    let over = fixture
        .as_bearer(token, Method::DELETE, &path, String::new())
        .await;
    assert_eq!(over.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_request_that_is_sent_twice_gets_the_same_credential() {
    let fixture = with_leases().await;
    let body = order(json!({ "wait_s": 0 }));
    let ask = async || {
        let request = with_token(Method::POST, "/v1/leases").header("idempotency-key", "k");
        let answer = fixture.send(request.body(Body::from(body.clone())).unwrap());
        let lease: Lease = answer.await.json();
        lease.token.unwrap()
    };
    assert_eq!(ask().await, ask().await);
}
