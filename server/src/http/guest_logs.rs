//! `GET /v1/leases/{id}/logs`: what the machine of a lease said last.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Json;
use axum::extract::State;
use remote_docker_api::LeaseLogs;

use super::ApiState;
use super::deadlines::not_active;
use super::error::ApiError;
use super::own::OwnLease;
use crate::ids::VmId;
use crate::lease::LeasePhase;

/// How long a machine may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Where the logs of machines come from.
#[async_trait]
pub trait GuestLogs: Send + Sync + 'static {
    /// What this machine said last; `None` when it does not answer or is not there. The texts come
    /// from the guest, so they may be anything; their size must be bounded.
    async fn logs(&self, vm: VmId) -> Option<LeaseLogs>;
}

pub(super) async fn logs(
    State(api): State<Arc<ApiState>>,
    OwnLease(row): OwnLease,
) -> Result<Json<LeaseLogs>, ApiError> {
    let vm = match &row.phase {
        LeasePhase::Active(grant) if row.end_wish.is_none() => grant.vm,
        _ => return Err(not_active(&row)),
    };
    let logs = tokio::time::timeout(LIMIT, api.logs.logs(vm)).await;
    match logs {
        Ok(Some(logs)) => Ok(Json(logs)),
        Ok(None) | Err(_) => Err(ApiError::GuestSilent(row.id)),
    }
}
