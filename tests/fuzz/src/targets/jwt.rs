//! What comes as the token of a CI job, and what an issuer says its keys are.

use remote_dockerd::oidc::{Keys, Pattern, Rule, Terms, verify, verify_bytes};

use super::{Target, outcome};

const WORDS: &[&[u8]] = &[
    b"\0",
    b"{\"alg\":\"ES256\",\"kid\":\"b\"}",
    b"{\"alg\":\"none\"}",
    b"\"alg\":\"HS256\"",
    b"\"alg\":\"EdDSA\"",
    b"\"kid\":\"a\"",
    b"\"jwk\":{}",
    b"\"crit\":[\"exp\"]",
    b"\"iss\":\"https://issuer.example\"",
    b"\"aud\":[\"remote-docker\"]",
    b"\"exp\":1772370000",
    b"\"nbf\":1772366400",
    b"\"iat\":1772366400",
    b"\"sub\":\"job\"",
    b"1e400",
    b"-1",
    b"9223372036854775808",
    b"{\"keys\":[",
    b"\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"",
    b"\"kty\":\"EC\",\"crv\":\"P-256\"",
    b"\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"",
    b"[[[[[[[[[[[[[[[[",
    b"\\ud800",
    b"....",
];

pub(super) fn target() -> Target {
    Target {
        name: "jwt",
        what: "tokens of CI jobs, their claims, and key sets",
        words: WORDS,
        most_bytes: 10 * 1024,
        most_memory: 8 << 20,
        seeds,
        run,
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let header = "{\"alg\":\"EdDSA\",\"kid\":\"a\"}";
    let claims = "{\"iss\":\"https://issuer.example\",\"aud\":\"remote-docker\",\"sub\":\"job\",\
                  \"iat\":1772366400,\"nbf\":1772366400,\"exp\":1772370000}";
    let keys = "{\"keys\":[{\"kid\":\"a\",\"kty\":\"OKP\",\"crv\":\"Ed25519\",\
                \"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}";
    vec![
        format!("p{header}\0{claims}\0{}", "s".repeat(64)).into_bytes(),
        format!("b{claims}").into_bytes(),
        format!("b{keys}").into_bytes(),
        b"b".to_vec(),
    ]
}

/// The first byte says whether the rest is a token as it comes, or the three parts of one, which are put
/// into Base64 first. Nobody has the key, so none is taken.
fn run(input: &[u8]) -> u64 {
    let (&kind, rest) = input.split_first().unwrap_or((&b'b', &[]));
    let token = if kind == b'p' {
        let parts: Vec<String> = rest.splitn(3, |byte| *byte == 0).map(base64url).collect();
        parts.join(".").into_bytes()
    } else {
        rest.to_vec()
    };
    assert!(
        !verify_bytes(&token),
        "a token that nobody signed was taken"
    );
    let Ok(keys) = Keys::from_jwks(&(seeds()[2])[1..]) else {
        panic!("the keys of this target are none");
    };
    let terms = Terms {
        issuer: "https://issuer.example".to_owned(),
        audience: "remote-docker".to_owned(),
        max_age_s: 86_400,
        rules: vec![Rule {
            project: "web".to_owned(),
            claims: [("sub".to_owned(), Pattern(vec!["*".to_owned()]))].into(),
        }],
    };
    let refused = match verify(&token, 1_772_366_400, &terms, &keys) {
        Ok(taken) => panic!("{taken:?} was taken"),
        Err(refusal) => refusal.to_string(),
    };
    assert!(refused.len() < 4096, "{} bytes", refused.len());
    assert!(
        !refused.contains(['\u{1b}', '\n', '\r', '\u{202e}']),
        "{refused:?}"
    );
    let key_set = Keys::from_jwks(&token).err().unwrap_or("keys");
    let words: String = refused
        .chars()
        .filter(|c| !c.is_ascii_digit())
        .take(60)
        .collect();
    outcome(&format!("{words}{key_set}"))
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .zip([16, 8, 0])
            .fold(0_u32, |bits, (byte, shift)| {
                bits | u32::from(*byte) << shift
            });
        for place in 0..=chunk.len() {
            let digit = bits >> (18 - 6 * place) & 63;
            text.push(char::from(DIGITS[digit as usize]));
        }
    }
    text
}
