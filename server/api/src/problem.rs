//! Errors on the wire: problem documents after RFC 9457.

use serde::{Deserialize, Serialize};

/// Content type of a [`Problem`].
pub const PROBLEM_CONTENT_TYPE: &str = "application/problem+json";

/// Stable codes that a program may branch on. A new server may send one that an old client does
/// not know; that reads as [`ErrorCode::Unknown`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// No token, or one that is not good here.
    Unauthorized,
    /// The token was good until it expired.
    TokenExpired,
    /// The token was good until it was taken back.
    TokenRevoked,
    /// The token is of a project that the server does not have.
    UnknownProject,
    /// The token is known, but its purpose is another one.
    MissingScope,
    /// The token that a CI system signed for a job is not taken.
    OidcRefused,
    /// No rule gives the job a project.
    OidcNoRule,
    /// The token of a job cannot be checked now.
    OidcUnavailable,
    /// The request came as plain HTTP where the server speaks TLS.
    TlsRequired,
    /// The body is not the JSON that the call takes.
    InvalidBody,
    /// The body is larger than the call takes.
    BodyTooLarge,
    /// No image offers this engine.
    UnknownEngine,
    /// The configuration names no such size.
    UnknownSize,
    /// The project may not have what is asked for.
    NotAllowed,
    /// The server's configuration offers no machines that may reach so much or so little.
    EgressNotOffered,
    /// The lease would last no time, or longer than the server allows.
    InvalidTtl,
    /// The call would wait a negative time, or longer than the server allows.
    InvalidWait,
    /// Heartbeats would be expected too often or too seldom.
    InvalidKeepalive,
    /// The lease would end after too short or too long an idleness.
    InvalidIdle,
    /// The extension names no moment, two, or one beyond what the server allows.
    InvalidExtension,
    /// The header `Idempotency-Key` cannot be used.
    InvalidIdempotencyKey,
    /// The same `Idempotency-Key` came with another request before.
    IdempotencyConflict,
    /// The header `Last-Event-ID` names no event of this lease.
    InvalidLastEventId,
    /// The certificate request cannot be read, is not signed by its key, or its key is too weak.
    InvalidCsr,
    /// Too many labels, or one that is too long.
    InvalidLabels,
    /// The id in the path is not an id.
    InvalidId,
    /// There is no such lease, or not for this caller.
    LeaseNotFound,
    /// The lease has ended or is ending, so the call can do nothing for it.
    LeaseEnded,
    /// The lease has no machine yet, so the call can do nothing for it.
    LeaseNotActive,
    /// The lease was made without `keepalive_s`, so no heartbeat is expected.
    NoKeepalive,
    /// There is no such path.
    NotFound,
    /// The path is there, but not for this method.
    MethodNotAllowed,
    /// No machine became ready in the time the client was willing to wait.
    NoCapacity,
    /// The project had as much as it may have for as long as the client was willing to wait.
    QuotaExceeded,
    /// Machine after machine failed to become ready.
    StartFailed,
    /// As many clients follow events as the server lets at a time.
    TooManyStreams,
    /// The machine of the lease does not answer the server.
    GuestSilent,
    /// The server cannot serve now; `/readyz` says why.
    NotReady,
    /// A fault of the server; its log has the details under the request id.
    Internal,
    /// A code this client does not know.
    #[serde(other)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}

impl ErrorCode {
    /// The code as it stands on the wire, such as `unknown_engine`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::TokenExpired => "token_expired",
            Self::TokenRevoked => "token_revoked",
            Self::UnknownProject => "unknown_project",
            Self::MissingScope => "missing_scope",
            Self::OidcRefused => "oidc_refused",
            Self::OidcNoRule => "oidc_no_rule",
            Self::OidcUnavailable => "oidc_unavailable",
            Self::TlsRequired => "tls_required",
            Self::InvalidBody => "invalid_body",
            Self::BodyTooLarge => "body_too_large",
            Self::UnknownEngine => "unknown_engine",
            Self::UnknownSize => "unknown_size",
            Self::NotAllowed => "not_allowed",
            Self::EgressNotOffered => "egress_not_offered",
            Self::InvalidTtl => "invalid_ttl",
            Self::InvalidWait => "invalid_wait",
            Self::InvalidKeepalive => "invalid_keepalive",
            Self::InvalidIdle => "invalid_idle",
            Self::InvalidExtension => "invalid_extension",
            Self::InvalidIdempotencyKey => "invalid_idempotency_key",
            Self::IdempotencyConflict => "idempotency_conflict",
            Self::InvalidLastEventId => "invalid_last_event_id",
            Self::InvalidCsr => "invalid_csr",
            Self::InvalidLabels => "invalid_labels",
            Self::InvalidId => "invalid_id",
            Self::LeaseNotFound => "lease_not_found",
            Self::LeaseEnded => "lease_ended",
            Self::LeaseNotActive => "lease_not_active",
            Self::NoKeepalive => "no_keepalive",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NoCapacity => "no_capacity",
            Self::QuotaExceeded => "quota_exceeded",
            Self::StartFailed => "start_failed",
            Self::TooManyStreams => "too_many_streams",
            Self::GuestSilent => "guest_silent",
            Self::NotReady => "not_ready",
            Self::Internal => "internal",
            Self::Unknown => "unknown",
        }
    }
}

/// A problem document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Problem {
    /// URI reference of the kind of problem; `about:blank` as the code says it all.
    #[serde(rename = "type")]
    pub kind: String,
    /// What kind of problem it is, in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time, and why.
    pub detail: String,
    /// The stable code.
    pub code: ErrorCode,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Names the request in the server's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_spelled_the_same_in_json_and_in_text() {
        for code in [
            ErrorCode::Unauthorized,
            ErrorCode::TokenExpired,
            ErrorCode::MissingScope,
            ErrorCode::NoCapacity,
            ErrorCode::InvalidCsr,
            ErrorCode::InvalidLastEventId,
            ErrorCode::TooManyStreams,
            ErrorCode::GuestSilent,
        ] {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    #[test]
    fn a_code_from_the_future_is_unknown_and_not_an_error() {
        let code: ErrorCode = serde_json::from_str("\"quota_of_2031\"").unwrap();
        assert_eq!(code, ErrorCode::Unknown);
    }
}
