//! Nobody gets in with a token that the issuer did not sign for this server and this moment.

use super::*;

/// An issuer with a key of each kind.
struct Set {
    rsa: Signer,
    p256: Signer,
    ed25519: Signer,
    keys: Keys,
}

impl Set {
    fn new() -> Self {
        let (rsa, p256, ed25519) = (Signer::rsa(), Signer::p256(), Signer::ed25519());
        let jwks = jwks(&[rsa.jwk("r"), p256.jwk("p"), ed25519.jwk("e")]);
        let keys = Keys::from_jwks(&jwks).unwrap();
        Self {
            rsa,
            p256,
            ed25519,
            keys,
        }
    }

    fn verify(&self, token: &str) -> Result<Verified, Refusal> {
        verify(token.as_bytes(), NOW, &terms(), &self.keys)
    }

    /// A good token of the P-256 key but for these claims.
    fn with(&self, changes: Value) -> Result<Verified, Refusal> {
        let claims = changed(&changes).to_string();
        self.verify(&self.p256.token(r#"{"alg":"ES256","kid":"p"}"#, &claims))
    }

    /// A good token of the P-256 key but for the header.
    fn with_header(&self, header: &str) -> Result<Verified, Refusal> {
        self.verify(&self.p256.token(header, &claims().to_string()))
    }
}

#[test]
fn what_an_issuer_signs_is_taken_with_each_algorithm() {
    let set = Set::new();
    let good = claims().to_string();
    for (signer, header) in [
        (&set.rsa, r#"{"alg":"RS256","kid":"r","typ":"JWT"}"#),
        (&set.rsa, r#"{"alg":"PS256","kid":"r"}"#),
        (&set.p256, r#"{"kid":"p","typ":"jwt","alg":"ES256"}"#),
        (&set.ed25519, r#"{"alg":"EdDSA","kid":"e"}"#),
    ] {
        let token = signer.token(header, &good);
        assert!(looks_like_jwt(token.as_bytes()));
        let verified = set.verify(&token).unwrap();
        assert_eq!(verified.project, "web");
        assert!(verified.subject.starts_with("project_path:group/web"));
    }
    assert!(!looks_like_jwt(b"rdt_0123456789abcdef"));
}

#[test]
fn an_algorithm_that_needs_no_key_or_a_shared_one_is_none() {
    let set = Set::new();
    for alg in [
        "none", "None", "NONE", "", "HS256", "HS512", "RS512", "ES384", "rs256",
    ] {
        let header = json!({ "alg": alg, "kid": "r" }).to_string();
        assert_eq!(set.with_header(&header), Err(Refusal::Algorithm), "{alg}");
    }
    for header in [
        r#"{"kid":"p"}"#,
        r#"{"alg":null}"#,
        r#"{"alg":["ES256"],"kid":"p"}"#,
    ] {
        assert_eq!(set.with_header(header), Err(Refusal::Algorithm), "{header}");
    }
    // Without a signature.
    let message = |header: &str| format!("{}.{}", encode(header), encode(claims().to_string()));
    let bare = format!("{}.", message(r#"{"alg":"none"}"#));
    assert_eq!(set.verify(&bare), Err(Refusal::Algorithm));
    let bare = format!("{}.", message(r#"{"alg":"ES256","kid":"p"}"#));
    assert_eq!(set.verify(&bare), Err(Refusal::Signature));
}

#[test]
fn a_public_key_is_no_shared_secret() {
    let set = Set::new();
    let message = format!(
        "{}.{}",
        encode(r#"{"alg":"HS256","kid":"r"}"#),
        encode(claims().to_string())
    );
    let jwk = set.rsa.jwk("r");
    let n = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
    let whole = jwk.to_string().into_bytes();
    for secret in [n, whole] {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret);
        let signature = ring::hmac::sign(&key, message.as_bytes());
        let token = format!("{message}.{}", encode(signature));
        assert_eq!(set.verify(&token), Err(Refusal::Algorithm));
        // Nor under the name of an algorithm that is taken.
        let message = message.replace(
            &encode(r#"{"alg":"HS256","kid":"r"}"#),
            &encode(r#"{"alg":"RS256","kid":"r"}"#),
        );
        let signature = ring::hmac::sign(&key, message.as_bytes());
        let token = format!("{message}.{}", encode(signature));
        assert_eq!(set.verify(&token), Err(Refusal::Signature));
    }
    // And an issuer's shared secrets are no keys at all.
    let oct = json!({ "kty": "oct", "kid": "s", "k": encode("secret"), "alg": "HS256" });
    assert!(Keys::from_jwks(&jwks(&[oct])).is_err());
}

#[test]
fn a_signature_is_of_these_very_bytes_and_of_the_named_key() {
    let set = Set::new();
    let good = claims().to_string();
    let token = set.p256.token(r#"{"alg":"ES256","kid":"p"}"#, &good);
    let mut parts: Vec<&str> = token.split('.').collect();
    let other = changed(&json!({ "project_path": "group/web", "sub": "somebody" }));
    let other = encode(other.to_string());
    parts[1] = &other;
    assert_eq!(set.verify(&parts.join(".")), Err(Refusal::Signature));
    // By somebody else, under the issuer's name and its key's.
    let thief = Signer::p256();
    let forged = thief.token(r#"{"alg":"ES256","kid":"p"}"#, &good);
    assert_eq!(set.verify(&forged), Err(Refusal::Signature));
    // Cut short, and zero, which some verifiers took for right.
    let (message, _) = token.rsplit_once('.').unwrap();
    for signature in [vec![0; 64], vec![0; 63], Vec::new()] {
        let token = format!("{message}.{}", encode(signature));
        assert_eq!(set.verify(&token), Err(Refusal::Signature));
    }
}

#[test]
fn a_key_is_for_what_its_issuer_says() {
    let set = Set::new();
    let good = claims().to_string();
    for header in [
        r#"{"alg":"RS256","kid":"p"}"#,
        r#"{"alg":"ES256","kid":"r"}"#,
    ] {
        let token = set.rsa.token(header, &good);
        assert_eq!(set.verify(&token), Err(Refusal::Algorithm), "{header}");
    }
    for change in [
        json!({ "use": "enc" }),
        json!({ "key_ops": ["sign"] }),
        json!({ "alg": "RS512" }),
        json!({ "kty": "EC" }),
        json!({ "n": "not base64!" }),
        json!({ "n": encode([0; 256]) }),
    ] {
        let mut jwk = set.rsa.jwk("r");
        let members = jwk.as_object_mut().unwrap();
        members.extend(change.as_object().unwrap().clone());
        assert!(Keys::from_jwks(&jwks(&[jwk])).is_err(), "{change}");
    }
    let mut only_pss = set.rsa.jwk("r");
    only_pss["alg"] = "PS256".into();
    let keys = Keys::from_jwks(&jwks(&[only_pss])).unwrap();
    for (alg, expected) in [("PS256", true), ("RS256", false)] {
        let header = json!({ "alg": alg, "kid": "r" }).to_string();
        let token = set.rsa.token(&header, &good);
        let taken = verify(token.as_bytes(), NOW, &terms(), &keys);
        assert_eq!(taken.is_ok(), expected, "{alg}: {taken:?}");
    }
}

#[test]
fn the_key_is_found_by_its_name_and_by_nothing_that_the_token_brings() {
    let set = Set::new();
    let thief = Signer::p256();
    let good = claims().to_string();
    let brought = thief.jwk("p");
    for header in [
        json!({ "alg": "ES256", "kid": "p", "jwk": brought }),
        json!({ "alg": "ES256", "kid": "p", "jku": "https://evil.example/jwks" }),
        json!({ "alg": "ES256", "kid": "p", "x5u": "https://evil.example/x", "x5c": ["AAAA"] }),
    ] {
        let token = thief.token(&header.to_string(), &good);
        assert_eq!(set.verify(&token), Err(Refusal::Signature), "{header}");
        // It is the signature and nothing else that is wrong.
        set.verify(&set.p256.token(&header.to_string(), &good))
            .unwrap();
    }
    for kid in [
        "unknown",
        "",
        "P",
        "p\0",
        "../../dev/null",
        "p' OR '1'='1",
        "p/../r",
        "/etc/passwd",
        "https://evil.example/p",
    ] {
        let header = json!({ "alg": "ES256", "kid": kid }).to_string();
        assert_eq!(set.with_header(&header), Err(Refusal::UnknownKey), "{kid}");
    }
    assert_eq!(
        set.with_header(r#"{"alg":"ES256"}"#),
        Err(Refusal::NoKeyNamed)
    );
    for kid in [json!(7), json!(null), json!(["p"]), json!("p".repeat(300))] {
        let header = json!({ "alg": "ES256", "kid": kid }).to_string();
        let refusal = set.with_header(&header).unwrap_err();
        assert!(matches!(refusal, Refusal::Malformed(_)), "{kid}: {refusal}");
    }
}

#[test]
fn one_key_needs_no_name_and_two_of_one_name_are_none() {
    let (one, two) = (Signer::p256(), Signer::p256());
    let good = claims().to_string();
    let keys = Keys::from_jwks(&jwks(&[one.jwk("a")])).unwrap();
    let nameless = one.token(r#"{"alg":"ES256"}"#, &good);
    verify(nameless.as_bytes(), NOW, &terms(), &keys).unwrap();
    let keys = Keys::from_jwks(&jwks(&[one.jwk("a"), two.jwk("a")])).unwrap();
    for signer in [&one, &two] {
        let token = signer.token(r#"{"alg":"ES256","kid":"a"}"#, &good);
        let taken = verify(token.as_bytes(), NOW, &terms(), &keys);
        assert_eq!(taken, Err(Refusal::TwoKeys));
    }
    // Of two kinds they cannot be mistaken for each other.
    let other = Signer::ed25519();
    let keys = Keys::from_jwks(&jwks(&[one.jwk("a"), other.jwk("a")])).unwrap();
    let token = one.token(r#"{"alg":"ES256","kid":"a"}"#, &good);
    verify(token.as_bytes(), NOW, &terms(), &keys).unwrap();
}

#[test]
fn another_issuer_or_audience_is_not_meant() {
    let set = Set::new();
    for iss in [
        json!(null),
        json!("https://evil.example"),
        json!("https://gitlab.example.com/"),
        json!("HTTPS://gitlab.example.com"),
        json!([ISSUER]),
    ] {
        assert_eq!(set.with(json!({ "iss": iss })), Err(Refusal::Issuer));
    }
    for aud in [
        json!(null),
        json!(""),
        json!("remote"),
        json!("remote-docker-2"),
        json!("REMOTE-DOCKER"),
        json!(["a", "b"]),
        json!([]),
        json!({ "remote-docker": true }),
        json!([["remote-docker"]]),
    ] {
        let refusal = set.with(json!({ "aud": aud })).unwrap_err();
        assert!(matches!(refusal, Refusal::Audience(_)), "{aud}: {refusal}");
    }
    set.with(json!({ "aud": ["a", AUDIENCE] })).unwrap();
}

#[test]
fn a_token_is_good_in_its_time_only() {
    let set = Set::new();
    for (changes, expected) in [
        (json!({ "exp": NOW - 59 }), Ok(())),
        (json!({ "exp": NOW - 60 }), Err(Refusal::Expired(60))),
        (json!({ "exp": 0 }), Err(Refusal::Expired(NOW))),
        (json!({ "exp": -1 }), Err(Refusal::Expired(NOW + 1))),
        (json!({ "exp": i64::MIN }), Err(Refusal::Expired(i64::MAX))),
        (json!({ "exp": NOW as f64 + 1.5 }), Ok(())),
        (json!({ "exp": null }), Err(Refusal::Time("exp"))),
        (json!({ "exp": "2099-01-01" }), Err(Refusal::Time("exp"))),
        (
            json!({ "exp": (NOW + 300).to_string() }),
            Err(Refusal::Time("exp")),
        ),
        (json!({ "exp": 1e300 }), Err(Refusal::Time("exp"))),
        (json!({ "exp": u64::MAX }), Err(Refusal::Time("exp"))),
        (json!({ "nbf": NOW + 60 }), Ok(())),
        (
            json!({ "nbf": NOW + 61 }),
            Err(Refusal::NotYet {
                claim: "nbf",
                seconds: 61,
            }),
        ),
        (json!({ "nbf": "now" }), Err(Refusal::Time("nbf"))),
        (
            json!({ "iat": NOW + 61 }),
            Err(Refusal::NotYet {
                claim: "iat",
                seconds: 61,
            }),
        ),
        (json!({ "iat": NOW - 86_400, "exp": NOW + 9 }), Ok(())),
        (
            json!({ "iat": NOW - 86_461, "exp": NOW + 9 }),
            Err(Refusal::TooOld(86_400)),
        ),
        (
            json!({ "iat": i64::MIN, "exp": NOW + 9 }),
            Err(Refusal::TooOld(86_400)),
        ),
        (json!({ "iat": null, "exp": NOW + 86_400 }), Ok(())),
        (
            json!({ "iat": null, "exp": NOW + 86_461 }),
            Err(Refusal::TooOld(86_400)),
        ),
        (
            json!({ "iat": null, "exp": i64::MAX }),
            Err(Refusal::TooOld(86_400)),
        ),
    ] {
        let taken = set.with(changes.clone()).map(|_| ());
        assert_eq!(taken, expected, "{changes}");
    }
}

#[test]
fn what_is_no_token_is_refused_whatever_it_is() {
    let set = Set::new();
    let header = r#"{"alg":"ES256","kid":"p"}"#;
    let good = set.p256.token(header, &claims().to_string());
    set.verify(&good).unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    let (h, p, s) = (parts[0], parts[1], parts[2]);
    for token in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        format!("{h}.{p}"),
        format!("{good}."),
        format!("{good}.{s}"),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{h}.{p}.{s}="),
        format!("{h}.{p}.{s}!"),
        format!("{h}=.{p}.{s}"),
        format!("{h}.{p}+/.{s}"),
        format!("é{good}"),
        set.p256.token("[]", &claims().to_string()),
        set.p256.token("{", &claims().to_string()),
        set.p256.token(header, "[]"),
        set.p256.token(header, "null"),
        set.p256.token(header, "{}garbage"),
        set.p256.token(
            r#"{"alg":"ES256","kid":"p","crit":["b64"],"b64":false}"#,
            "{}",
        ),
        set.p256
            .token(r#"{"alg":"ES256","kid":"p","typ":"logout+jwt"}"#, "{}"),
        set.p256.token(header, &"[".repeat(4000)),
    ] {
        let refusal = set.verify(&token).unwrap_err();
        assert!(
            matches!(refusal, Refusal::Malformed(_)),
            "{token}: {refusal}"
        );
    }
    let long = changed(&json!({ "pad": "x".repeat(8 * 1024) })).to_string();
    let token = set.p256.token(header, &long);
    assert_eq!(set.verify(&token), Err(Refusal::TooLarge));
}

#[test]
fn what_is_said_twice_is_not_believed_once() {
    let set = Set::new();
    let good = claims().to_string();
    let inner = good.strip_prefix('{').unwrap();
    for claims in [
        format!(r#"{{"project_path":"group/evil",{inner}"#),
        format!(r#"{{"exp":1,{inner}"#),
        // The same name, written otherwise.
        format!(r#"{{"\u0065xp":1,{inner}"#),
        format!(r#"{{"deep":{{"a":1,"a":2}},{inner}"#),
    ] {
        let token = set.p256.token(r#"{"alg":"ES256","kid":"p"}"#, &claims);
        let refusal = set.verify(&token).unwrap_err();
        assert!(
            matches!(refusal, Refusal::Malformed(_)),
            "{claims}: {refusal}"
        );
    }
    let twice = r#"{"alg":"none","alg":"ES256","kid":"p"}"#;
    let message = format!("{}.{}", encode(twice), encode(&good));
    let signature = set.p256.sign("ES256", message.as_bytes());
    let token = format!("{message}.{}", encode(signature));
    assert!(matches!(set.verify(&token), Err(Refusal::Malformed(_))));
    let jwk = set.p256.jwk("p").to_string();
    let twice = format!(r#"{{"keys":[],"keys":[{jwk}]}}"#);
    assert!(Keys::from_jwks(twice.as_bytes()).is_err());
}

#[test]
fn nothing_that_is_sent_is_taken_by_the_door_for_fuzzers() {
    assert!(!verify_bytes(b""));
    let set = Set::new();
    let good = set
        .p256
        .token(r#"{"alg":"ES256","kid":"p"}"#, &claims().to_string());
    assert!(!verify_bytes(good.as_bytes()));
    assert!(!verify_bytes(claims().to_string().as_bytes()));
}
