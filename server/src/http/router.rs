//! Every route of the API.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

use super::error::ApiError;
use super::{ApiState, auth, health, leases, request};

/// The API as a service.
pub fn router(api: Arc<ApiState>) -> Router {
    let with_token = Router::new()
        .route("/v1/leases", post(leases::create).get(leases::list))
        .route("/v1/leases/{id}", get(leases::show).delete(leases::release))
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .route_layer(from_fn_with_state(api.clone(), auth::require_token));
    let open = Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed });
    with_token
        .merge(open)
        .fallback(|| async { ApiError::NotFound })
        // `body.rs` has the one limit, with an answer that says what it is.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn(request::frame))
        .with_state(api)
}
