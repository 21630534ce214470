//! `GET /v1/openapi.json`: the API as an OpenAPI 3.1 document. Bodies are described from the very types that
//! are read and written; `operations.rs` has what no type tells, and tests compare it with the routes and
//! with what the server really answers.

use std::sync::{Arc, OnceLock};

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use remote_docker_api::{
    CreateLease, EngineList, ErrorCode, ExtendLease, KeepLease, Lease, LeaseEvent, LeaseList,
    LeaseLogs, PROBLEM_CONTENT_TYPE, Problem,
};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::ApiState;
use super::health::Report;

mod operations;

use operations::{Answer, Body, Operation, Parameter};

/// Where schemas lie in the document.
const SCHEMAS: &str = "#/components/schemas/";

/// `GET /v1/openapi.json`: the same for everybody, so it takes no token.
pub(super) async fn openapi(State(_): State<Arc<ApiState>>) -> impl IntoResponse {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| document().to_string());
    let kind = (header::CONTENT_TYPE, "application/json");
    ([kind], text.as_str())
}

/// The document.
pub(super) fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations::ALL {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = describe(operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "remote-dockerd",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Leases out fresh virtual machines that run a Docker daemon each. Members that a \
                request may not have are refused; answers may have more members, and enumerations more \
                values, in later versions.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token says whose project the caller is.",
                },
            },
            "schemas": schemas(),
        },
    })
}

/// By name, as requests are read and answers are written.
fn schemas() -> Map<String, Value> {
    let settings = || {
        SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        })
    };
    let mut requests = settings().for_deserialize().into_generator();
    requests.subschema_for::<CreateLease>();
    requests.subschema_for::<ExtendLease>();
    requests.subschema_for::<KeepLease>();
    let mut answers = settings().for_serialize().into_generator();
    answers.subschema_for::<Lease>();
    answers.subschema_for::<EngineList>();
    answers.subschema_for::<LeaseList>();
    answers.subschema_for::<LeaseLogs>();
    answers.subschema_for::<LeaseEvent>();
    answers.subschema_for::<Problem>();
    answers.subschema_for::<Report>();
    let mut schemas = answers.take_definitions(true);
    schemas.extend(requests.take_definitions(true));
    schemas
}

fn describe(operation: &Operation) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": operation.parameters.iter().map(parameter).collect::<Vec<_>>(),
        "responses": responses(operation),
    });
    if let Some(schema) = operation.body {
        described["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": reference(schema) } },
        });
    }
    if operation.open {
        described["security"] = json!([]);
    }
    described
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("{SCHEMAS}{schema}") })
}

fn parameter(parameter: &Parameter) -> Value {
    let (place, name, schema, what) = match parameter {
        Parameter::Lease => (
            "path",
            "id",
            // The one of the type itself: the path has the same ids as the bodies.
            schemars::schema_for!(remote_docker_api::LeaseId).to_value(),
            "The lease",
        ),
        Parameter::Wait => (
            "query",
            "wait_s",
            json!({ "type": "integer", "minimum": 0, "maximum": 86_400, "default": 0 }),
            "How long to wait for a change, in seconds; the server's `lease.max_wait_s` bounds it",
        ),
        Parameter::KnownTag => (
            "header",
            "If-None-Match",
            json!({ "type": "string" }),
            "The `ETag` of the last answer",
        ),
        Parameter::IdempotencyKey => (
            "header",
            "Idempotency-Key",
            json!({ "type": "string", "pattern": "^[!-~]{1,255}$" }),
            "Names the request: the same one makes one lease, however often it is sent",
        ),
        Parameter::LastEvent => (
            "header",
            "Last-Event-ID",
            json!({ "type": "integer", "minimum": 0 }),
            "The `id` of the last event that was received",
        ),
    };
    let mut schema = schema;
    if let Some(members) = schema.as_object_mut() {
        members.retain(|name, _| !matches!(name.as_str(), "$schema" | "title"));
    }
    json!({
        "name": name,
        "in": place,
        "required": place == "path",
        "description": what,
        "schema": schema,
    })
}

fn responses(operation: &Operation) -> Value {
    let mut responses = Map::new();
    for answer in operation.answers {
        responses.insert(answer.status.to_string(), success(answer));
    }
    for (status, codes) in operation.refusals() {
        let names: Vec<_> = codes.iter().map(|code| code.as_str()).collect();
        let refusal = json!({
            "description": format!("`code` is {}", names.join(", ")),
            "content": { PROBLEM_CONTENT_TYPE: { "schema": {
                "allOf": [reference("Problem")],
                "properties": { "code": { "enum": names }, "status": { "const": status } },
            } } },
        });
        let known = responses
            .entry(status.to_string())
            .or_insert_with(|| json!({ "description": refusal["description"], "content": {} }));
        known["content"][PROBLEM_CONTENT_TYPE] = refusal["content"][PROBLEM_CONTENT_TYPE].clone();
    }
    responses.into()
}

fn success(answer: &Answer) -> Value {
    let content = match answer.body {
        Body::Nothing => return with_headers(json!({ "description": answer.what }), answer),
        Body::Json(schema) => json!({ "application/json": { "schema": reference(schema) } }),
        Body::Text(kind) => json!({ kind: { "schema": { "type": "string" } } }),
        Body::Any => json!({ "application/json": { "schema": { "type": "object" } } }),
    };
    with_headers(
        json!({ "description": answer.what, "content": content }),
        answer,
    )
}

fn with_headers(mut described: Value, answer: &Answer) -> Value {
    if !answer.headers.is_empty() {
        let headers = answer.headers.iter().map(|(name, what)| {
            let header = json!({
                "description": what,
                "required": true,
                "schema": { "type": "string" },
            });
            ((*name).to_owned(), header)
        });
        described["headers"] = Value::Object(headers.collect());
    }
    described
}

/// The statuses that go with a code.
pub(super) fn statuses(code: ErrorCode) -> &'static [u16] {
    match code {
        ErrorCode::Unauthorized
        | ErrorCode::TokenExpired
        | ErrorCode::TokenRevoked
        | ErrorCode::OidcRefused => &[401],
        ErrorCode::UnknownProject
        | ErrorCode::MissingScope
        | ErrorCode::NotAllowed
        | ErrorCode::OidcNoRule => &[403],
        ErrorCode::QuotaExceeded => &[429],
        ErrorCode::InvalidBody => &[400, 408],
        ErrorCode::InvalidWait => &[400, 422],
        ErrorCode::TlsRequired
        | ErrorCode::InvalidId
        | ErrorCode::InvalidIdempotencyKey
        | ErrorCode::InvalidLastEventId => &[400],
        ErrorCode::LeaseNotFound | ErrorCode::NotFound => &[404],
        ErrorCode::MethodNotAllowed => &[405],
        ErrorCode::LeaseEnded | ErrorCode::LeaseNotActive | ErrorCode::NoKeepalive => &[409],
        ErrorCode::BodyTooLarge => &[413],
        ErrorCode::UnknownEngine
        | ErrorCode::UnknownSize
        | ErrorCode::EgressNotOffered
        | ErrorCode::InvalidTtl
        | ErrorCode::InvalidKeepalive
        | ErrorCode::InvalidIdle
        | ErrorCode::InvalidExtension
        | ErrorCode::IdempotencyConflict
        | ErrorCode::InvalidCsr
        | ErrorCode::InvalidLabels => &[422],
        ErrorCode::NoCapacity
        | ErrorCode::StartFailed
        | ErrorCode::TooManyStreams
        | ErrorCode::GuestSilent
        | ErrorCode::OidcUnavailable
        | ErrorCode::NotReady => &[503],
        _ => &[500],
    }
}
