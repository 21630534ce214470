//! Who may call: whoever shows a credential that `access` knows, for what it may be used for.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use remote_docker_api::LeaseId;

use super::ApiState;
use super::error::ApiError;
use super::places::Trust;
use crate::access::{Caller, Scope};
use crate::audit::{Origin, Record};

/// Lets requests with a good credential through, before anything else of them is read, and notes whose
/// they are.
pub(super) async fn require_caller(
    State(api): State<Arc<ApiState>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let caller = match bearer_token(request.headers()) {
        Ok(token) => api
            .authenticator
            .caller(token)
            .await
            .map_err(ApiError::from),
        Err(error) => Err(error),
    };
    let caller = caller.inspect_err(|error| note(&api, &request, None, error))?;
    if let Some(lease) = caller.lease
        && !is_about(request.uri().path(), lease)
    {
        let error = ApiError::OtherLease(lease);
        note(&api, &request, Some(caller.name.to_string()), &error);
        return Err(error);
    }
    if let Some(trust) = request.extensions().get::<Trust>() {
        trust.earn();
    }
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Whether a path is that lease's, or below it. One that is written in another way is not.
fn is_about(path: &str, lease: LeaseId) -> bool {
    let rest = path.strip_prefix(&format!("/v1/leases/{lease}"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Lets callers through whose credential may be used for this. It comes after [`require_caller`]; where
/// that was forgotten nobody gets in.
pub(super) async fn require_scope(
    State((api, scope)): State<(Arc<ApiState>, Scope)>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let caller = request.extensions().get::<Caller>();
    let caller = caller.ok_or(ApiError::NoToken)?;
    if !caller.scopes.allow(scope) {
        let name = caller.name.to_string();
        let error = ApiError::MissingScope {
            caller: name.clone(),
            scope,
        };
        note(&api, &request, Some(name), &error);
        return Err(error);
    }
    Ok(next.run(request).await)
}

/// Notes in the audit log that somebody was not let in.
fn note(api: &ApiState, request: &Request, credential: Option<String>, error: &ApiError) {
    let credential = credential.or_else(|| match error {
        ApiError::Refused(refusal) => refusal.credential(),
        _ => None,
    });
    let origin = request.extensions().get::<Origin>();
    let record = Record::access_refused(
        api.clock.wall(),
        credential,
        origin.cloned().unwrap_or_default(),
        error.code().1,
        error.detail(),
    );
    api.audit.note(record);
}

/// The token of the one `Authorization: Bearer` header (RFC 6750).
fn bearer_token(headers: &HeaderMap) -> Result<&[u8], ApiError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(ApiError::NoToken)?;
    if values.next().is_some() {
        // Which of the two counts would depend on who reads them.
        return Err(ApiError::WrongToken);
    }
    let (scheme, token) = value
        .as_bytes()
        .split_at_checked("Bearer ".len())
        .ok_or(ApiError::NoToken)?;
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return Err(ApiError::NoToken);
    }
    match token.trim_ascii() {
        [] => Err(ApiError::NoToken),
        token => Ok(token),
    }
}
