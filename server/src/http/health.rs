//! Is the server alive, can it serve, and how is it doing? For probes: no secrets, and no token but for
//! the numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use super::ApiState;
use super::error::ApiError;
use super::readiness::Check;
use crate::metrics;

/// `GET /healthz`: it answers as long as anything does.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// Answer of `GET /readyz`.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Readiness")]
pub(super) struct Report {
    /// Whether leases can be served.
    ready: bool,
    /// How each part of the server is, by its name.
    checks: BTreeMap<String, Entry>,
}

/// How a part of the server is.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Part")]
struct Entry {
    /// `ok`, or why not: `degraded` works, `pending` will, `failed` does not.
    #[schemars(extend("enum" = ["ok", "degraded", "pending", "failed"]))]
    state: &'static str,
    /// What is in the way.
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
    let mut checks = api.readiness.checks();
    if let Some(why) = api.authenticator.trouble() {
        // It keeps nobody waiting who is let in, so it is shown here and not told to those who wait.
        checks.insert("tokens".to_owned(), Check::Degraded(why));
    }
    if let Some(why) = api.audit.trouble() {
        checks.insert("audit".to_owned(), Check::Degraded(why));
    }
    let checks = checks
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

/// `GET /metrics`: counters, gauges and histograms in the text format of OpenMetrics. What rows can
/// tell is counted now, so that it cannot be wrong after a restart.
pub(super) async fn metrics(State(api): State<Arc<ApiState>>) -> Result<Response, ApiError> {
    let (vms, leases) = api.store.snapshot().await?;
    let text = api.metrics.text(&vms, &leases)?;
    let kind = (header::CONTENT_TYPE, metrics::CONTENT_TYPE);
    Ok(([kind], text).into_response())
}
