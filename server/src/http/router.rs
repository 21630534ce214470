//! Every route of the API.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use super::error::ApiError;
use super::{ApiState, auth, create, deadlines, events, guest_logs, health, leases, request};

/// The API as a service.
pub fn router(api: Arc<ApiState>) -> Router {
    let with_token = Router::new()
        .route("/v1/leases", post(create::create).get(leases::list))
        .route("/v1/leases/{id}", get(leases::show).delete(leases::release))
        .route("/v1/leases/{id}/heartbeat", post(deadlines::heartbeat))
        .route("/v1/leases/{id}/extend", post(deadlines::extend))
        .route("/v1/leases/{id}/keep", post(deadlines::keep))
        .route("/v1/leases/{id}/events", get(events::events))
        .route("/v1/leases/{id}/logs", get(guest_logs::logs));
    let open = Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready));
    let metrics = Router::new().route("/metrics", get(health::metrics));
    let (with_token, open) = if api.metrics_public {
        (with_token, open.merge(metrics))
    } else {
        (with_token.merge(metrics), open)
    };
    let with_token = with_token
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .route_layer(from_fn_with_state(api.clone(), auth::require_token));
    let open = open.method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed });
    with_token
        .merge(open)
        .fallback(|| async { ApiError::NotFound })
        // `body.rs` has the one limit, with an answer that says what it is.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(api.clone(), request::frame))
        .with_state(api)
}
