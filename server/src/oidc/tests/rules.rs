//! Whose job it is.

use super::*;

/// The project of a token with these claims, under these rules.
fn project(rules: Vec<Rule>, changes: Value) -> Result<String, Refusal> {
    let signer = Signer::p256();
    let keys = Keys::from_jwks(&jwks(&[signer.jwk("p")])).unwrap();
    let token = signer.token(
        r#"{"alg":"ES256","kid":"p"}"#,
        &changed(&changes).to_string(),
    );
    let terms = Terms { rules, ..terms() };
    verify(token.as_bytes(), NOW, &terms, &keys).map(|verified| verified.project)
}

#[test]
fn the_first_rule_that_holds_counts() {
    let rules = || {
        vec![
            rule(
                "release",
                &[("ref", &["main"]), ("ref_protected", &["true"])],
            ),
            rule("web", &[("project_path", &["group/web", "group/site"])]),
            rule("group", &[("project_path", &["group/*"])]),
        ]
    };
    for (changes, expected) in [
        (json!({ "ref": "main" }), "release"),
        (json!({ "ref": "main", "ref_protected": true }), "release"),
        (json!({ "ref": "main", "ref_protected": "false" }), "web"),
        (json!({ "project_path": "group/site" }), "web"),
        (json!({ "project_path": "group/other" }), "group"),
    ] {
        let given = project(rules(), changes.clone());
        assert_eq!(given.as_deref(), Ok(expected), "{changes}");
    }
    for path in ["group", "groups/web", "Group/web", "evil/group/web", ""] {
        let given = project(rules(), json!({ "project_path": path }));
        assert!(
            matches!(given, Err(Refusal::NoRule(_))),
            "{path}: {given:?}"
        );
    }
}

#[test]
fn a_claim_is_compared_as_what_it_is() {
    let given = |wanted: &str, claim: Value| {
        project(vec![rule("p", &[("c", &[wanted])])], json!({ "c": claim })).is_ok()
    };
    for (wanted, claim, holds) in [
        ("7", json!(7), true),
        ("7", json!("7"), true),
        ("7", json!(7.0), false),
        ("7", json!(70), false),
        ("true", json!(true), true),
        ("true", json!(false), false),
        ("a", json!(["b", "a"]), true),
        ("a", json!(["b"]), false),
        ("a", json!([["a"]]), false),
        ("a", json!({ "a": "a" }), false),
        ("*", json!(["x"]), true),
        ("*", json!([]), false),
        ("*", json!({}), false),
        ("a*", json!("a"), true),
        ("a*c", json!("abc"), false),
        ("a*c", json!("a*c"), true),
        ("", json!(""), true),
        ("", json!("a"), false),
    ] {
        assert_eq!(given(wanted, claim.clone()), holds, "{wanted} {claim}");
    }
}

#[test]
fn a_rule_that_asks_for_nothing_lets_nobody_in() {
    let given = project(vec![rule("p", &[])], json!({}));
    assert!(matches!(given, Err(Refusal::NoRule(_))), "{given:?}");
    assert!(matches!(
        project(Vec::new(), json!({})),
        Err(Refusal::NoRule(_))
    ));
}

#[test]
fn who_is_refused_by_all_rules_is_told_the_names_of_its_claims_and_no_value() {
    let refusal = project(
        Vec::new(),
        json!({ "email": "jo@example.org", "a\u{1b}b": 1 }),
    );
    let text = refusal.unwrap_err().to_string();
    assert!(
        text.contains("project_path") && text.contains("email"),
        "{text}"
    );
    assert!(
        !text.contains("group/web") && !text.contains("jo@"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text}");
}
