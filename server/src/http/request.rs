//! What every request goes through: it gets an id and a span, leaves one line in the log, a panic
//! in its handler is its own fault only, and an error gets its form.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use remote_docker_api::{PROBLEM_CONTENT_TYPE, Problem, short_code};
use tracing::Instrument;

use super::ApiState;
use super::error::ApiError;
use super::places::Trust;
use crate::audit::Origin;
use crate::clock::random_bytes;

/// Names a request in the log and in error answers. A client may choose it.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The outermost layer.
pub(super) async fn frame(
    State(api): State<Arc<ApiState>>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = chosen_id(request.headers()).unwrap_or_else(drawn_id);
    let method = request.method().clone();
    // The pattern, not the path: what an unknown path says is the sender's, and may be anything.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unknown".to_owned(), |path| path.as_str().to_owned());
    let origin = Origin {
        remote: request.extensions().get::<Trust>().map(Trust::peer),
        request_id: Some(id.clone()),
    };
    request.extensions_mut().insert(origin);
    let span = tracing::info_span!("request", request_id = %id);
    let begun = Instant::now();
    async move {
        let mut response = AssertUnwindSafe(next.run(request))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| ApiError::Panic.into_response());
        finish(&mut response, &id);
        let status = response.status().as_u16();
        api.metrics.answered(&method, &route, status);
        let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        if route.starts_with("/v1/") && response.status() != StatusCode::UNAUTHORIZED {
            tracing::info!(status, duration_ms, "{method} {route} answered {status}");
        } else {
            // Probes come every few seconds, and whoever has no token must not fill the log.
            tracing::debug!(status, duration_ms, "{method} {route} answered {status}");
        }
        response
    }
    .instrument(span)
    .await
}

/// The caller's own id, if it can be put in a log and a header as it is.
fn chosen_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    ((1..=64).contains(&id.len()) && id.bytes().all(harmless)).then(|| id.to_owned())
}

fn drawn_id() -> String {
    // Without random numbers requests are merely hard to tell apart; that is no reason to fail.
    let bits = random_bytes().map_or(0, u64::from_be_bytes);
    format!("r-{}", short_code::encode(bits))
}

/// Writes the problem that a handler left in the extensions, now that the request's id is known.
fn finish(response: &mut Response, id: &str) {
    if let Some(mut problem) = response.extensions_mut().remove::<Problem>() {
        problem.request_id = Some(id.to_owned());
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(PROBLEM_CONTENT_TYPE),
        );
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = body.into();
    }
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    // Answers hold certificates and states of the moment: no proxy may keep them.
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}
