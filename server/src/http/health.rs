//! Is the server alive, and can it serve? For probes: no token, no secrets.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;

use super::ApiState;
use super::readiness::Check;

/// `GET /healthz`: it answers as long as anything does.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

#[derive(Serialize)]
pub(super) struct Report {
    ready: bool,
    checks: BTreeMap<String, Entry>,
}

#[derive(Serialize)]
struct Entry {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// `GET /readyz`: 200 when leases can be served, else 503; either way with the state of each part.
pub(super) async fn ready(State(api): State<Arc<ApiState>>) -> (StatusCode, Json<Report>) {
    let ready = api.readiness.is_ready() && !api.stopping.is_cancelled();
    let entry = |check| match check {
        Check::Ok => ("ok", None),
        Check::Degraded(why) => ("degraded", Some(why)),
        Check::Pending(why) => ("pending", Some(why)),
        Check::Failed(why) => ("failed", Some(why)),
    };
    let checks = api
        .readiness
        .checks()
        .into_iter()
        .map(|(part, check)| {
            let (state, reason) = entry(check);
            (part, Entry { state, reason })
        })
        .collect();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(Report { ready, checks }))
}
