//! Only the right token opens the API, in exactly one header of the right form.

use super::*;

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
