//! The document tells what the server does: every route is in it, and every answer of every test here is one
//! that it describes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use jsonschema::Validator;

use super::super::openapi::{document, statuses};
use super::*;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// What is answered before it is known which call it is.
const OF_NO_CALL: [ErrorCode; 3] = [
    ErrorCode::NotFound,
    ErrorCode::MethodNotAllowed,
    ErrorCode::TlsRequired,
];

/// The document, whose answers may have no members beyond those that it knows: a client may meet more, but
/// then the document is not complete.
static STRICT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = document();
    let schemas = document["components"]["schemas"].as_object_mut().unwrap();
    for schema in schemas.values_mut() {
        if schema["type"] == "object" {
            schema["additionalProperties"] = false.into();
        }
    }
    document
});

/// Checks of bodies, by where they stand in the document.
static VALIDATORS: LazyLock<BTreeMap<String, Validator>> = LazyLock::new(|| {
    let mut validators = BTreeMap::new();
    for (path, operations) in STRICT["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            for (status, answer) in operation["responses"].as_object().unwrap() {
                for (kind, content) in answer["content"].as_object().into_iter().flatten() {
                    let schema = json!({
                        "allOf": [content["schema"]],
                        "components": STRICT["components"],
                    });
                    let key = format!("{method} {path} {status} {kind}");
                    let validator = jsonschema::options().should_validate_formats(true);
                    validators.insert(key, validator.build(&schema).unwrap());
                }
            }
        }
    }
    validators
});

/// The path as the document has it.
fn pattern(path: &str) -> Option<String> {
    let paths = STRICT["paths"].as_object().unwrap();
    let fits = |known: &&String| {
        let (known, asked): (Vec<_>, Vec<_>) =
            (known.split('/').collect(), path.split('/').collect());
        let mut pairs = known.iter().zip(&asked);
        known.len() == asked.len() && pairs.all(|(known, asked)| *known == "{id}" || known == asked)
    };
    paths.keys().find(fits).cloned()
}

/// The answer is one that the document describes.
#[track_caller]
pub(super) fn check(method: &Method, path: &str, answer: &Answer) {
    let status = answer.status.as_u16();
    let method = method.as_str().to_ascii_lowercase();
    let operation =
        pattern(path).and_then(|path| Some((STRICT["paths"][&path].get(&method)?, path)));
    let Some((operation, path)) = operation else {
        // Of paths that only a test has, and of those that are not there.
        return;
    };
    let problem = serde_json::from_slice::<Problem>(&answer.body).ok();
    if problem.is_some_and(|problem| OF_NO_CALL.contains(&problem.code)) {
        return;
    }
    let known = &operation["responses"][status.to_string()];
    let place = format!("{method} {path} {status}");
    assert!(known.is_object(), "{place} is not in the document");
    for name in known["headers"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
    {
        assert!(
            answer.headers.contains_key(name.as_str()),
            "{place} has no {name}"
        );
    }
    let Some(kinds) = known["content"].as_object() else {
        assert!(answer.body.is_empty(), "{place} has a body");
        return;
    };
    let kind = answer.header("content-type").split(';').next().unwrap();
    assert!(kinds.contains_key(kind), "{place} is {kind}");
    if kind.ends_with("json") {
        let validator = &VALIDATORS[&format!("{place} {kind}")];
        let body: Value = answer.json();
        let faults: Vec<_> = validator
            .iter_errors(&body)
            .map(|fault| fault.to_string())
            .collect();
        assert!(faults.is_empty(), "{place}: {faults:?} in {body}");
    }
}

/// As they stand in the source: the router itself does not tell.
fn routes() -> BTreeSet<(String, String)> {
    let source = include_str!("../router.rs");
    let mut routes = BTreeSet::new();
    for call in source.split(".route(\"").skip(1) {
        let (path, rest) = call.split_once('"').unwrap();
        let handlers = rest.split_once(';').map_or(rest, |(handlers, _)| handlers);
        for method in METHODS {
            // `get(…)`, or `.get(…)` after another.
            if handlers.contains(&format!(" {method}("))
                || handlers.contains(&format!(".{method}("))
            {
                routes.insert((path.to_owned(), method.to_owned()));
            }
        }
    }
    routes
}

#[test]
fn every_route_is_in_the_document_and_every_call_of_the_document_has_one() {
    let mut described = BTreeSet::new();
    for (path, operations) in STRICT["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            described.insert((path.clone(), method.clone()));
        }
    }
    assert!(described.len() > 10, "{described:?}");
    assert_eq!(
        routes(),
        described,
        "server/src/http/openapi/operations.rs describes each route of router.rs"
    );
}

/// What the source says is what the router does.
#[tokio::test]
async fn paths_take_the_methods_of_the_document_and_no_others() {
    let fixture = Fixture::new().await;
    let lease = fixture.active(json!({})).await;
    for (path, operations) in STRICT["paths"].as_object().unwrap() {
        if path.ends_with("/events") {
            // Does not end.
            continue;
        }
        for method in METHODS {
            let path = path.replace("{id}", &lease.id.to_string());
            let name = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
            let answer = fixture.call(name, &path).await;
            let there = operations.get(method).is_some();
            let refused = answer.status == StatusCode::METHOD_NOT_ALLOWED;
            assert_eq!(there, !refused, "{method} {path}: {answer:?}");
        }
    }
}

/// Which codes there are, and with which status each comes, stands in the guide as well.
#[test]
fn every_code_of_the_guide_is_in_the_document_with_its_status() {
    let guide = include_str!("../../../../docs/errors.md");
    let rows = guide.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let code = cells.next()?.trim_end_matches('`');
        let listed = cells.next()?.split(", ").map(|text| text.parse().unwrap());
        let listed: BTreeSet<u16> = listed.collect();
        Some((code, listed))
    });
    let rows: BTreeMap<_, _> = rows.collect();
    assert!(rows.len() > 20, "{rows:?}");
    let mut described: BTreeMap<&str, BTreeSet<u16>> = BTreeMap::new();
    for operations in STRICT["paths"].as_object().unwrap().values() {
        for operation in operations.as_object().unwrap().values() {
            for (status, answer) in operation["responses"].as_object().unwrap() {
                let schema = &answer["content"][PROBLEM_CONTENT_TYPE]["schema"];
                let codes = schema["properties"]["code"]["enum"].as_array();
                for code in codes.into_iter().flatten() {
                    let known = described.entry(code.as_str().unwrap()).or_default();
                    known.insert(status.parse().unwrap());
                }
            }
        }
    }
    // Those that no call gives that is there.
    for code in OF_NO_CALL {
        described.insert(code.as_str(), statuses(code).iter().copied().collect());
    }
    assert_eq!(described, rows);
}

/// Every reference leads somewhere, and nothing lies there that nobody refers to.
#[test]
fn the_document_is_whole() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    match value.as_str() {
                        Some(target) if name == "$ref" => {
                            let schema = target.strip_prefix("#/components/schemas/");
                            found.insert(schema.unwrap().to_owned());
                        }
                        _ => references(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::from(["LeaseEvent".to_owned()]);
    references(&document, &mut found);
    let schemas = document["components"]["schemas"].as_object().unwrap();
    assert_eq!(found, schemas.keys().cloned().collect());
    let mut ids = BTreeSet::new();
    for operations in document["paths"].as_object().unwrap().values() {
        for operation in operations.as_object().unwrap().values() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap()));
        }
    }
}

/// The types are described as they are written and read.
#[tokio::test]
async fn the_document_is_served_to_everybody() {
    let fixture = Fixture::new().await;
    let request = Request::get("/v1/openapi.json")
        .body(Body::empty())
        .unwrap();
    let answer = fixture.send(request).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-type"), "application/json");
    let served: Value = answer.json();
    assert_eq!(served, document());
    assert_eq!(served["openapi"], "3.1.0");
    let schemas = &served["components"]["schemas"];
    assert_eq!(
        schemas["CreateLease"]["required"],
        json!(["client_csr_pem"])
    );
    assert_eq!(schemas["CreateLease"]["additionalProperties"], false);
    let required = schemas["Lease"]["required"].as_array().unwrap();
    assert!(required.contains(&json!("id")) && !required.contains(&json!("docker")));
    let states = schemas["LeaseState"].to_string();
    assert!(
        states.contains("\"active\"") && !states.contains("unknown"),
        "{states}"
    );
}

/// Events are not JSON as a whole, so their data is looked at by itself.
#[tokio::test]
async fn events_are_as_the_document_says() {
    let fixture = Fixture::new().await;
    let lease = fixture.active(json!({})).await;
    let path = format!("/v1/leases/{}", lease.id);
    fixture.call(Method::DELETE, &path).await;
    // It ends, and then nothing of it is left.
    for _ in 0..2 {
        reconciler::reconcile(&fixture.api.store).await;
    }
    let answer = fixture.get(&format!("{path}/events")).await;
    let text = String::from_utf8(answer.body).unwrap();
    let schema = json!({
        "$ref": "#/components/schemas/LeaseEvent", "components": STRICT["components"],
    });
    let validator = jsonschema::validator_for(&schema).unwrap();
    let data: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    assert!(data.len() > 2, "{text}");
    for event in data {
        let faults: Vec<_> = validator
            .iter_errors(&event)
            .map(|fault| fault.to_string())
            .collect();
        assert!(faults.is_empty(), "{faults:?} in {event}");
    }
}
