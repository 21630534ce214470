//! Every route of the API.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};

use super::error::ApiError;
use super::{
    ApiState, auth, create, deadlines, engines, events, guest_logs, health, leases, openapi,
    request,
};
use crate::access::Scope;

/// The API as a service.
pub fn router(api: Arc<ApiState>) -> Router {
    let needs = |scope| from_fn_with_state((api.clone(), scope), auth::require_scope);
    let lease = Router::new()
        .route("/v1/leases", post(create::create))
        .route("/v1/leases/{id}", delete(leases::release))
        .route("/v1/leases/{id}/heartbeat", post(deadlines::heartbeat))
        .route("/v1/leases/{id}/extend", post(deadlines::extend))
        .route("/v1/leases/{id}/keep", post(deadlines::keep))
        .route_layer(needs(Scope::Lease));
    let read = Router::new()
        .route("/v1/engines", get(engines::list))
        .route("/v1/leases", get(leases::list))
        .route("/v1/leases/{id}", get(leases::show))
        .route("/v1/leases/{id}/events", get(events::events))
        .route("/v1/leases/{id}/logs", get(guest_logs::logs))
        .route_layer(needs(Scope::Read));
    let with_token = read.merge(lease);
    let open = Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/v1/openapi.json", get(openapi::openapi));
    let metrics = Router::new().route("/metrics", get(health::metrics));
    let (with_token, open) = if api.metrics_public {
        (with_token, open.merge(metrics))
    } else {
        let metrics = metrics.route_layer(needs(Scope::Metrics));
        (with_token.merge(metrics), open)
    };
    let with_token = with_token
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .route_layer(from_fn_with_state(api.clone(), auth::require_caller));
    let open = open.method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed });
    with_token
        .merge(open)
        .fallback(|| async { ApiError::NotFound })
        // `body.rs` has the one limit, with an answer that says what it is.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(api.clone(), request::frame))
        .with_state(api)
}

/// The answer to requests that come as plain HTTP where TLS is spoken.
pub fn tls_only(api: Arc<ApiState>) -> Router {
    Router::new()
        .fallback(|| async { ApiError::TlsRequired })
        .layer(from_fn_with_state(api.clone(), request::frame))
        .with_state(api)
}
