//! Everything that can be wrong with a request for a lease: told by name, and nothing is written.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt;

use super::*;

#[tokio::test]
async fn each_fault_has_its_code_and_writes_nothing() {
    use ErrorCode as Code;
    let labels = |count: usize| (0..count).map(|n| (format!("n{n}"), "v".into())).collect();
    let label = |name: &str, value: &str| json!({ "labels": { name: value } });
    let fixture = Fixture::new().await;
    for (change, code, words) in [
        (
            json!({"engine": "27"}),
            Code::UnknownEngine,
            "no engine `27`; on offer: 26, 28",
        ),
        (json!({"engine": ""}), Code::UnknownEngine, "no engine ``"),
        (
            json!({"size": "huge"}),
            Code::UnknownSize,
            "no size `huge`; on offer: large, small",
        ),
        (
            json!({"ttl_s": 0}),
            Code::InvalidTtl,
            "`ttl_s` is 0; allowed are 1 to 86400",
        ),
        (json!({"ttl_s": -5}), Code::InvalidTtl, "`ttl_s` is -5"),
        (
            json!({"ttl_s": 86_401}),
            Code::InvalidTtl,
            "`ttl_s` is 86401",
        ),
        (
            json!({"ttl_s": i64::MAX}),
            Code::InvalidTtl,
            "9223372036854775807",
        ),
        (
            json!({"wait_s": -1}),
            Code::InvalidWait,
            "`wait_s` is -1; allowed are 0 to 600",
        ),
        (json!({"wait_s": 601}), Code::InvalidWait, "`wait_s` is 601"),
        (
            json!({"egress": "open"}),
            Code::EgressNotOffered,
            "`egress` is `open`, which this server does not offer; it offers: internet, none",
        ),
        (
            json!({"keepalive_s": 4}),
            Code::InvalidKeepalive,
            "`keepalive_s` is 4; allowed are 5 to 3600",
        ),
        (
            json!({"keepalive_s": 3601}),
            Code::InvalidKeepalive,
            "is 3601",
        ),
        (
            json!({"keepalive_s": i64::MIN}),
            Code::InvalidKeepalive,
            "-9223372036854775808",
        ),
        (
            json!({"idle_s": 0}),
            Code::InvalidIdle,
            "`idle_s` is 0; allowed are 10 to 86400",
        ),
        (json!({"idle_s": 86_401}), Code::InvalidIdle, "is 86401"),
        (
            json!({"labels": Value::Object(labels(17))}),
            Code::InvalidLabels,
            "there are 17",
        ),
        (
            label("", "v"),
            Code::InvalidLabels,
            "name of label 1 has 0 bytes",
        ),
        (
            label(&"n".repeat(65), "v"),
            Code::InvalidLabels,
            "has 65 bytes",
        ),
        (
            label("n", &"v".repeat(257)),
            Code::InvalidLabels,
            "value of `n` has 257 bytes",
        ),
        (
            label("n", "\u{1b}[2J"),
            Code::InvalidLabels,
            "control character",
        ),
        (
            json!({"client_csr_pem": ""}),
            Code::InvalidCsr,
            "it is not PEM: it is empty",
        ),
        (
            json!({"client_csr_pem": "x"}),
            Code::InvalidCsr,
            "it is not PEM",
        ),
        (
            json!({"client_csr_pem": include_str!("../../pki/fixtures/rsa-1024.pem")}),
            Code::InvalidCsr,
            "1024 bits; allowed are 2048 to 8192",
        ),
        (
            json!({"client_csr_pem": include_str!("../../pki/fixtures/ec-secp256k1.pem")}),
            Code::InvalidCsr,
            "secp256k1; allowed are P-256 and P-384",
        ),
        (
            json!({"client_csr_pem": include_str!("../../pki/fixtures/rsa-2048-sha1.pem")}),
            Code::InvalidCsr,
            "SHA-1",
        ),
    ] {
        let answer = fixture.post(order(change.clone())).await;
        let problem = answer.problem(422, code);
        assert!(problem.detail.contains(words), "{change}: {problem:?}");
        if !matches!(code, Code::UnknownEngine | Code::UnknownSize) {
            assert!(problem.hint.is_some(), "{change}: {problem:?}");
        }
    }
    fixture.assert_no_lease().await;
}

#[tokio::test]
async fn the_limits_themselves_are_allowed() {
    let fixture = Fixture::new().await;
    let labels: serde_json::Map<String, Value> = (0..16)
        .map(|n| (format!("{n:064}"), "v".repeat(256).into()))
        .collect();
    for change in [
        json!({"ttl_s": 1}),
        json!({"ttl_s": 86_400}),
        json!({"keepalive_s": 5, "idle_s": 10}),
        json!({"keepalive_s": 3600, "idle_s": 86_400}),
        json!({ "labels": labels }),
        json!({"client_csr_pem": include_str!("../../pki/fixtures/rsa-2048.pem")}),
    ] {
        let mut change = change;
        change["wait_s"] = 0.into();
        let answer = fixture.post(order(change.clone())).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{change}: {answer:?}");
    }
}

#[tokio::test]
async fn bodies_that_are_not_the_json_of_a_request_name_key_and_position() {
    let fixture = Fixture::new().await;
    let long = "x".repeat(50_000);
    for (body, words) in [
        (String::new(), "the body is empty"),
        ("  \n".to_owned(), "the body is empty"),
        ("[]".to_owned(), "not a JSON object"),
        ("null".to_owned(), "not a JSON object"),
        (
            "{".to_owned(),
            "EOF while parsing an object (line 1, column 1)",
        ),
        ("{}".to_owned(), "missing field `client_csr_pem`"),
        (
            "{\"ttl\": 1}".to_owned(),
            "`ttl`: unknown field `ttl`, expected one of",
        ),
        (
            "{\n \"ttl_s\": \"1h\"\n}".to_owned(),
            "`ttl_s`: invalid type: string \"1h\", expected i64 (line 2",
        ),
        (
            "{\"ttl_s\": 1.5}".to_owned(),
            "`ttl_s`: invalid type: floating point",
        ),
        ("{\"ttl_s\": 99999999999999999999}".to_owned(), "`ttl_s`: "),
        (
            "{\"labels\": {\"a\": 1}}".to_owned(),
            "`labels.a`: invalid type: integer `1`, expected a string",
        ),
        (
            "{\"ttl_s\": 1, \"ttl_s\": 2}".to_owned(),
            "duplicate field `ttl_s`",
        ),
        (order(json!({})) + "x", "trailing characters"),
        (format!("{{\"{long}\": 1}}"), "unknown field `xxx"),
        (
            format!("{{\"ttl_s\": \"{long}\"}}"),
            "`ttl_s`: invalid type: string \"xxx",
        ),
        (format!("{{\"labels\": {{\"{long}\": 1}}}}"), "`labels.xxx"),
        ("[".repeat(10_000), "not a JSON object"),
        ("{\"labels\":".repeat(1000), "`labels"),
        (
            "{\"client_csr_pem\": \"\\ud800\"}".to_owned(),
            "`client_csr_pem`: ",
        ),
    ] {
        let answer = fixture.post(body).await;
        let problem = answer.problem(400, ErrorCode::InvalidBody);
        assert!(problem.detail.contains(words), "{words}: {problem:?}");
    }
    let binary = fixture.post(&b"{\"engine\": \"\xff\xfe\"}"[..]).await;
    binary.problem(400, ErrorCode::InvalidBody);
    fixture.assert_no_lease().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_one_at_the_limit_is_read() {
    let fixture = Fixture::new().await;
    let limit = fixture.api.max_body_bytes;
    let padded = |length: usize| {
        let mut body = order(json!({ "wait_s": 0 }));
        body.push_str(&" ".repeat(length - body.len()));
        body
    };
    let answer = fixture.post(padded(limit + 1)).await;
    let problem = answer.problem(413, ErrorCode::BodyTooLarge);
    assert_eq!(problem.detail, "the body has more than 65536 bytes");
    fixture.assert_no_lease().await;

    let answer = fixture.post(padded(limit)).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn of_a_body_over_the_limit_so_much_is_taken_that_its_sender_can_hear_why() {
    const CHUNK: usize = 8192;
    let fixture = Fixture::new().await;
    for (chunks, expected) in [
        // Half a megabyte is taken whole: whoever still sends when the line closes hears nothing.
        (64, 64..=64),
        // One that never ends is not.
        (usize::MAX, 128..=200),
    ] {
        let taken = Arc::new(AtomicUsize::new(0));
        let count = taken.clone();
        let body = futures_util::stream::repeat_with(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(vec![b' '; CHUNK])
        });
        let answer = fixture.post(Body::from_stream(body.take(chunks))).await;
        answer.problem(413, ErrorCode::BodyTooLarge);
        let taken = taken.load(Ordering::Relaxed);
        assert!(expected.contains(&taken), "{taken} of {chunks}");
    }
    fixture.assert_no_lease().await;
}

#[tokio::test]
async fn a_body_that_breaks_off_or_never_comes_is_given_up() {
    let fixture = Fixture::new().await;
    let broken = futures_util::stream::iter([
        Ok(order(json!({}))),
        Err(std::io::Error::other("connection reset")),
    ]);
    let answer = fixture.post(Body::from_stream(broken)).await;
    answer.problem(400, ErrorCode::InvalidBody);

    // With the clock in hand, ten seconds are over as soon as nothing else moves.
    tokio::time::pause();
    let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let answer = fixture.post(Body::from_stream(never)).await;
    tokio::time::resume();
    let problem = answer.problem(408, ErrorCode::InvalidBody);
    assert_eq!(problem.detail, "the body did not arrive within 10 s");
    fixture.assert_no_lease().await;
}
