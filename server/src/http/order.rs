//! What a lease request asks for, checked in full before anything is written. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use remote_docker_api::CreateLease;

use super::catalogue::Catalogue;
use super::error::ApiError;
use crate::config::LeaseConfig;
use crate::lease::PoolKey;
use crate::pki::check_csr;

const MAX_LABELS: usize = 16;
const MAX_NAME_BYTES: usize = 64;
const MAX_VALUE_BYTES: usize = 256;

/// A request that can be served as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) key: PoolKey,
    pub(super) ttl_s: u32,
    /// How long the call waits; zero when it does not.
    pub(super) wait: Duration,
    pub(super) client_csr_pem: String,
    pub(super) labels: BTreeMap<String, String>,
}

pub(super) fn check(
    request: CreateLease,
    catalogue: &Catalogue,
    limits: &LeaseConfig,
) -> Result<Order, ApiError> {
    let key = catalogue.resolve(request.engine.as_deref(), request.size.as_deref())?;
    let ttl_s = match request.ttl_s {
        None => limits.default_ttl_s,
        Some(asked) => within(asked, 1, limits.max_ttl_s).ok_or(ApiError::InvalidTtl {
            asked,
            max: limits.max_ttl_s,
        })?,
    };
    let wait = check_wait(request.wait_s, limits.default_wait_s, limits)?;
    check_labels(&request.labels)?;
    check_csr(&request.client_csr_pem).map_err(ApiError::InvalidCsr)?;
    Ok(Order {
        key,
        ttl_s,
        wait,
        client_csr_pem: request.client_csr_pem,
        labels: request.labels,
    })
}

/// How long a call waits that asks for this.
pub(super) fn check_wait(
    asked: Option<i64>,
    default_s: u32,
    limits: &LeaseConfig,
) -> Result<Duration, ApiError> {
    let seconds = match asked {
        None => default_s,
        Some(asked) => within(asked, 0, limits.max_wait_s).ok_or(ApiError::InvalidWait {
            asked,
            max: limits.max_wait_s,
        })?,
    };
    Ok(Duration::from_secs(seconds.into()))
}

fn within(asked: i64, min: u32, max: u32) -> Option<u32> {
    let value = u32::try_from(asked).ok()?;
    (min..=max).contains(&value).then_some(value)
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let refuse = |what: String| Err(ApiError::InvalidLabels(what));
    if labels.len() > MAX_LABELS {
        return refuse(format!("there are {}, at most {MAX_LABELS}", labels.len()));
    }
    for (place, (name, value)) in (1..).zip(labels) {
        // By number: the name itself may be what is wrong.
        if !(1..=MAX_NAME_BYTES).contains(&name.len()) {
            return refuse(format!(
                "the name of label {place} has {} bytes",
                name.len()
            ));
        }
        // They are shown in terminals.
        if name.chars().chain(value.chars()).any(char::is_control) {
            return refuse(format!("label {place} has a control character"));
        }
        if value.len() > MAX_VALUE_BYTES {
            return refuse(format!("the value of `{name}` has {} bytes", value.len()));
        }
    }
    Ok(())
}
