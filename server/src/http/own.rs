//! The caller, and the lease that a path names if it is the caller's.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use remote_docker_api::{Lease, LeaseId};

use super::ApiState;
use super::error::ApiError;
use super::view;
use crate::access::Caller;
use crate::audit::Origin;
use crate::lease::LeaseRow;

/// The lease of `{id}` in the path. One of another project is not there: its existence is nobody
/// else's business.
pub(super) struct OwnLease(pub(super) LeaseRow);

impl FromRequestParts<Arc<ApiState>> for OwnLease {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        api: &Arc<ApiState>,
    ) -> Result<Self, Self::Rejection> {
        let project = caller(parts)?.project;
        let id = Path::<String>::from_request_parts(parts, api).await;
        // What is not even UTF-8 is no id either.
        let id: LeaseId = id.map_or_else(|_| String::new(), |Path(id)| id).parse()?;
        match api.store.lease(id).await? {
            Some(row) if *row.project == *project => Ok(Self(row)),
            _ => Err(ApiError::LeaseNotFound(id)),
        }
    }
}

/// Who calls, and from where.
pub(super) struct CalledBy(pub(super) Caller, pub(super) Origin);

impl FromRequestParts<Arc<ApiState>> for CalledBy {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        _: &Arc<ApiState>,
    ) -> Result<Self, Self::Rejection> {
        let origin = parts.extensions.get::<Origin>();
        Ok(Self(caller(parts)?, origin.cloned().unwrap_or_default()))
    }
}

/// A route that forgot to ask for a credential serves nobody.
fn caller(parts: &Parts) -> Result<Caller, ApiError> {
    let caller = parts.extensions.get::<Caller>();
    caller.cloned().ok_or(ApiError::NoToken)
}

/// The lease as its holder sees it now.
pub(super) fn show(api: &ApiState, row: LeaseRow) -> Lease {
    let queue = api.outlook.borrow().get(&row.id).cloned();
    view::lease(row, &api.relay_host, queue, api.clock.ahead())
}
