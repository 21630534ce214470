//! What a lease request asks for, checked in full before anything is written. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::HeaderMap;
use remote_docker_api::{CreateLease, Egress};
use sha2::{Digest, Sha256};

use super::catalogue::Catalogue;
use super::error::ApiError;
use crate::access::Terms;
use crate::config::{EgressOffer, LeaseConfig};
use crate::lease::PoolKey;
use crate::pki::check_csr;

const MAX_LABELS: usize = 16;
const MAX_NAME_BYTES: usize = 64;
const MAX_VALUE_BYTES: usize = 256;
const IDEMPOTENCY_KEY: &str = "idempotency-key";
const MAX_KEY_BYTES: usize = 255;

/// A request that can be served as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) key: PoolKey,
    pub(super) ttl_s: u32,
    /// How long the call waits; zero when it does not.
    pub(super) wait: Duration,
    pub(super) keepalive_s: Option<u32>,
    pub(super) idle_s: Option<u32>,
    pub(super) egress: Egress,
    /// Digest of what is asked for, to know the same request again.
    pub(super) digest: String,
    pub(super) client_csr_pem: String,
    pub(super) labels: BTreeMap<String, String>,
}

pub(super) fn check(
    request: CreateLease,
    catalogue: &Catalogue,
    limits: &LeaseConfig,
    egress: Egress,
    project: &str,
    terms: &Terms,
) -> Result<Order, ApiError> {
    let digest = digest(&request);
    let size = request.size.as_deref().or(terms.default_size());
    let key = catalogue.resolve(request.engine.as_deref(), size)?;
    if !terms.allow_size(&key.size) {
        return Err(ApiError::NotAllowed {
            project: project.to_owned(),
            what: format!("a machine of size `{}`", key.size),
            allowed: terms.sizes.clone().unwrap_or_default().join(", "),
        });
    }
    let max_ttl_s = terms.longest(limits.max_ttl_s);
    let ttl_s = match request.ttl_s {
        None => limits.default_ttl_s.min(max_ttl_s),
        Some(asked) => within(asked, 1, max_ttl_s).ok_or(ApiError::InvalidTtl {
            asked,
            max: max_ttl_s,
        })?,
    };
    let wait = check_wait(request.wait_s, limits.default_wait_s, limits)?;
    let (min, max) = (limits.min_keepalive_s, limits.max_keepalive_s);
    let keepalive_s = match request.keepalive_s {
        None => None,
        Some(asked) => {
            let refused = ApiError::InvalidKeepalive { asked, min, max };
            Some(within(asked, min, max).ok_or(refused)?)
        }
    };
    let (min, max) = (limits.min_idle_s, limits.max_idle_s);
    let idle_s = match request.idle_s {
        None => None,
        Some(asked) => {
            let refused = ApiError::InvalidIdle { asked, min, max };
            Some(within(asked, min, max).ok_or(refused)?)
        }
    };
    check_labels(&request.labels)?;
    check_csr(&request.client_csr_pem).map_err(ApiError::InvalidCsr)?;
    Ok(Order {
        key,
        ttl_s,
        wait,
        keepalive_s,
        idle_s,
        egress,
        digest,
        client_csr_pem: request.client_csr_pem,
        labels: request.labels,
    })
}

/// What the machine of a request of this project may reach that asks for this.
pub(super) fn check_egress(
    asked: Option<Egress>,
    offer: &EgressOffer,
    project: &str,
    terms: &Terms,
) -> Result<Egress, ApiError> {
    let own = terms.egress(offer);
    let egress = asked.unwrap_or(own.default);
    if !offer.offered.contains(&egress) {
        return Err(ApiError::EgressNotOffered {
            asked: egress,
            offered: offer.offered.clone(),
        });
    }
    if !own.offered.contains(&egress) {
        return Err(ApiError::NotAllowed {
            project: project.to_owned(),
            what: format!("a machine with the network policy `{egress}`"),
            allowed: own.words(),
        });
    }
    Ok(egress)
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

/// SHA-256 of everything that makes the lease what it is. Of what was asked and not of what it means
/// here: defaults may be others after a restart. How long the caller waits is its own business.
fn digest(request: &CreateLease) -> String {
    let request = CreateLease {
        wait_s: None,
        ..request.clone()
    };
    // The fields have an order, and so have the labels.
    let json = serde_json::to_vec(&request).unwrap_or_default();
    Sha256::digest(&json)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The name that the caller gave this request, to be known again by it.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let refuse = |what| Err(ApiError::InvalidIdempotencyKey(what));
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return refuse("it is there twice");
    }
    let key = value.as_bytes();
    if !(1..=MAX_KEY_BYTES).contains(&key.len()) {
        return refuse("it has no or more than 255 characters");
    }
    match str::from_utf8(key) {
        Ok(key) if key.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(key.to_owned())),
        _ => refuse("it has a character that is not visible ASCII"),
    }
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
