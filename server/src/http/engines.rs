//! What machines can be asked for.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use remote_docker_api::EngineList;

use super::ApiState;

/// `GET /v1/engines`: the engines on offer, the oldest first.
pub(super) async fn list(State(api): State<Arc<ApiState>>) -> Json<EngineList> {
    Json(api.catalogue.engines())
}
