//! The one place that turns errors into HTTP: status, stable code, and a sentence for people.
//!
//! What a client reads says what it can act on; sources of faults of the server go to the log, under
//! the request's id.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use remote_docker_api::{Egress, ErrorCode, LeaseId, ParseIdError, Problem};

use super::catalogue::UnknownOffer;
use crate::access::{Refusal, Scope};
use crate::oidc;
use crate::pki::CsrError;
use crate::store::StoreError;

/// When to come back after a "not now" of which nothing better is known, in seconds.
const RETRY_AFTER_S: u64 = 10;
/// Whoever must wait longer may as well ask in between: leases are given back early.
const LONGEST_RETRY_AFTER_S: u64 = 600;

/// Why a request is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("this server speaks TLS here, and the request came as plain HTTP")]
    TlsRequired,
    #[error("the request has no token")]
    NoToken,
    #[error("the token is not good here")]
    WrongToken,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(
        "lease {0} is not kept any longer by its own credential, because of the token that it was asked for \
         with: {1}"
    )]
    AskerRefused(LeaseId, Refusal),
    #[error("the token is of lease {0} and opens nothing else")]
    OtherLease(LeaseId),
    #[error("{caller} may not be used for this: it lacks the scope `{scope}`")]
    MissingScope { caller: String, scope: Scope },
    #[error("{0}")]
    InvalidBody(String),
    #[error("the body has more than {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("the body did not arrive within {seconds} s")]
    BodyTooSlow { seconds: u64 },
    #[error(transparent)]
    Offer(#[from] UnknownOffer),
    #[error("the project `{project}` may not have {what}; it may have: {allowed}")]
    NotAllowed {
        project: String,
        what: String,
        allowed: String,
    },
    #[error("`egress` is `{asked}`, which this server does not offer; it offers: {}", words(.offered))]
    EgressNotOffered { asked: Egress, offered: Vec<Egress> },
    #[error("`ttl_s` is {asked}; allowed are 1 to {max} seconds")]
    InvalidTtl { asked: i64, max: u32 },
    #[error("`wait_s` is {asked}; allowed are 0 to {max} seconds")]
    InvalidWait { asked: i64, max: u32 },
    #[error("`keepalive_s` is {asked}; allowed are {min} to {max} seconds")]
    InvalidKeepalive { asked: i64, min: u32, max: u32 },
    #[error("`idle_s` is {asked}; allowed are {min} to {max} seconds")]
    InvalidIdle { asked: i64, min: u32, max: u32 },
    #[error("{0}")]
    InvalidExtension(String),
    #[error("the header `Idempotency-Key` is refused: {0}")]
    InvalidIdempotencyKey(&'static str),
    #[error("another request was made with this `Idempotency-Key` before")]
    IdempotencyConflict,
    #[error("the header `Last-Event-ID` names no event of lease {0}")]
    InvalidLastEventId(LeaseId),
    #[error("the query string cannot be understood: {0}")]
    InvalidQuery(String),
    #[error("`client_csr_pem` is refused: {0}")]
    InvalidCsr(CsrError),
    #[error("`labels` are refused: {0}")]
    InvalidLabels(String),
    #[error(transparent)]
    InvalidId(#[from] ParseIdError),
    #[error("there is no lease {0}")]
    LeaseNotFound(LeaseId),
    #[error("lease {0} is over")]
    LeaseEnded(LeaseId),
    #[error("lease {0} has no machine yet")]
    LeaseNotActive(LeaseId),
    #[error("lease {0} was made without `keepalive_s`, so no heartbeat is expected")]
    NoKeepalive(LeaseId),
    #[error("there is no such path")]
    NotFound,
    #[error("the path does not take this method")]
    MethodNotAllowed,
    #[error("{detail}")]
    NoCapacity {
        detail: String,
        /// In how many seconds a machine is expected, if that can be told.
        estimated_wait_s: Option<u64>,
    },
    #[error("{0}")]
    QuotaExceeded(String),
    #[error("{0}")]
    StartFailed(String),
    #[error("{most} clients follow events already")]
    TooManyStreams { most: usize },
    #[error("the machine of lease {0} does not answer the server")]
    GuestSilent(LeaseId),
    #[error("the server cannot serve leases now: {0}")]
    NotReady(String),
    #[error("the server is stopping")]
    Stopping,
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the metrics cannot be written")]
    Metrics(#[from] std::fmt::Error),
    #[error("the system gives no random numbers")]
    Random(#[from] getrandom::Error),
    /// The panic itself was logged by the panic hook, inside the request's span.
    #[error("the handler panicked")]
    Panic,
    #[error("lease {0} vanished while a request waited for it")]
    Vanished(LeaseId),
}

fn words(policies: &[Egress]) -> String {
    let words: Vec<_> = policies.iter().map(|policy| policy.as_str()).collect();
    words.join(", ")
}

/// What whoever is not let in is told.
fn refused(refusal: &Refusal) -> (StatusCode, ErrorCode) {
    use ErrorCode as Code;
    match refusal {
        Refusal::Unknown => (StatusCode::UNAUTHORIZED, Code::Unauthorized),
        Refusal::Expired { .. } => (StatusCode::UNAUTHORIZED, Code::TokenExpired),
        Refusal::Revoked { .. } => (StatusCode::UNAUTHORIZED, Code::TokenRevoked),
        Refusal::UnknownProject { .. } => (StatusCode::FORBIDDEN, Code::UnknownProject),
        Refusal::Oidc(oidc::Refusal::NoRule(_)) => (StatusCode::FORBIDDEN, Code::OidcNoRule),
        Refusal::Oidc(oidc::Refusal::Unavailable) => {
            (StatusCode::SERVICE_UNAVAILABLE, Code::OidcUnavailable)
        }
        Refusal::Oidc(_) => (StatusCode::UNAUTHORIZED, Code::OidcRefused),
        Refusal::Unreadable => (StatusCode::SERVICE_UNAVAILABLE, Code::NotReady),
    }
}

impl ApiError {
    pub(super) fn code(&self) -> (StatusCode, ErrorCode) {
        use ErrorCode as Code;
        match self {
            Self::TlsRequired => (StatusCode::BAD_REQUEST, Code::TlsRequired),
            Self::NoToken | Self::WrongToken => (StatusCode::UNAUTHORIZED, Code::Unauthorized),
            Self::Refused(refusal) | Self::AskerRefused(_, refusal) => refused(refusal),
            Self::OtherLease(_) => (StatusCode::FORBIDDEN, Code::MissingScope),
            Self::MissingScope { .. } => (StatusCode::FORBIDDEN, Code::MissingScope),
            Self::InvalidBody(_) => (StatusCode::BAD_REQUEST, Code::InvalidBody),
            Self::BodyTooSlow { .. } => (StatusCode::REQUEST_TIMEOUT, Code::InvalidBody),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, Code::BodyTooLarge),
            Self::Offer(UnknownOffer::Engine { .. }) => {
                (StatusCode::UNPROCESSABLE_ENTITY, Code::UnknownEngine)
            }
            Self::Offer(UnknownOffer::Size { .. }) => {
                (StatusCode::UNPROCESSABLE_ENTITY, Code::UnknownSize)
            }
            Self::NotAllowed { .. } => (StatusCode::FORBIDDEN, Code::NotAllowed),
            Self::EgressNotOffered { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, Code::EgressNotOffered)
            }
            Self::InvalidTtl { .. } => (StatusCode::UNPROCESSABLE_ENTITY, Code::InvalidTtl),
            Self::InvalidWait { .. } => (StatusCode::UNPROCESSABLE_ENTITY, Code::InvalidWait),
            Self::InvalidKeepalive { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, Code::InvalidKeepalive)
            }
            Self::InvalidIdle { .. } => (StatusCode::UNPROCESSABLE_ENTITY, Code::InvalidIdle),
            Self::InvalidExtension(_) => (StatusCode::UNPROCESSABLE_ENTITY, Code::InvalidExtension),
            Self::InvalidIdempotencyKey(_) => {
                (StatusCode::BAD_REQUEST, Code::InvalidIdempotencyKey)
            }
            Self::IdempotencyConflict => {
                (StatusCode::UNPROCESSABLE_ENTITY, Code::IdempotencyConflict)
            }
            Self::InvalidLastEventId(_) => (StatusCode::BAD_REQUEST, Code::InvalidLastEventId),
            Self::InvalidQuery(_) => (StatusCode::BAD_REQUEST, Code::InvalidWait),
            Self::InvalidCsr(_) => (StatusCode::UNPROCESSABLE_ENTITY, Code::InvalidCsr),
            Self::InvalidLabels(_) => (StatusCode::UNPROCESSABLE_ENTITY, Code::InvalidLabels),
            Self::InvalidId(_) => (StatusCode::BAD_REQUEST, Code::InvalidId),
            Self::LeaseNotFound(_) => (StatusCode::NOT_FOUND, Code::LeaseNotFound),
            Self::LeaseEnded(_) => (StatusCode::CONFLICT, Code::LeaseEnded),
            Self::LeaseNotActive(_) => (StatusCode::CONFLICT, Code::LeaseNotActive),
            Self::NoKeepalive(_) => (StatusCode::CONFLICT, Code::NoKeepalive),
            Self::NotFound => (StatusCode::NOT_FOUND, Code::NotFound),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, Code::MethodNotAllowed),
            Self::NoCapacity { .. } => (StatusCode::SERVICE_UNAVAILABLE, Code::NoCapacity),
            Self::QuotaExceeded(_) => (StatusCode::TOO_MANY_REQUESTS, Code::QuotaExceeded),
            Self::StartFailed(_) => (StatusCode::SERVICE_UNAVAILABLE, Code::StartFailed),
            Self::TooManyStreams { .. } => (StatusCode::SERVICE_UNAVAILABLE, Code::TooManyStreams),
            Self::GuestSilent(_) => (StatusCode::SERVICE_UNAVAILABLE, Code::GuestSilent),
            Self::NotReady(_) | Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, Code::NotReady),
            Self::Store(StoreError::DiskFull(_) | StoreError::Locked(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, Code::NotReady)
            }
            Self::Store(_)
            | Self::Random(_)
            | Self::Metrics(_)
            | Self::Panic
            | Self::Vanished(_) => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal),
        }
    }

    fn title(code: ErrorCode) -> &'static str {
        match code {
            ErrorCode::TlsRequired => "TLS is needed",
            ErrorCode::Unauthorized => "A token is needed",
            ErrorCode::TokenExpired => "The token has expired",
            ErrorCode::TokenRevoked => "The token was taken back",
            ErrorCode::UnknownProject => "No such project",
            ErrorCode::MissingScope => "The token is not for this",
            ErrorCode::OidcRefused => "The job's token is refused",
            ErrorCode::OidcNoRule => "The job has no project",
            ErrorCode::OidcUnavailable => "The job's token cannot be checked now",
            ErrorCode::InvalidBody => "The body is not what this call takes",
            ErrorCode::BodyTooLarge => "The body is too large",
            ErrorCode::UnknownEngine => "No such engine",
            ErrorCode::UnknownSize => "No such size",
            ErrorCode::NotAllowed => "Not for this project",
            ErrorCode::EgressNotOffered => "No such network policy",
            ErrorCode::InvalidTtl => "No lease can last so long",
            ErrorCode::InvalidWait => "No call can wait so long",
            ErrorCode::InvalidKeepalive => "No heartbeats at such a pace",
            ErrorCode::InvalidIdle => "No lease ends after such an idleness",
            ErrorCode::InvalidExtension => "The lease cannot be extended so",
            ErrorCode::InvalidIdempotencyKey => "The idempotency key is refused",
            ErrorCode::IdempotencyConflict => "The idempotency key is another request's",
            ErrorCode::InvalidLastEventId => "No such event",
            ErrorCode::InvalidCsr => "The certificate request is refused",
            ErrorCode::InvalidLabels => "The labels are refused",
            ErrorCode::InvalidId => "That is not an id",
            ErrorCode::LeaseNotFound => "No such lease",
            ErrorCode::LeaseEnded => "The lease is over",
            ErrorCode::LeaseNotActive => "The lease has no machine yet",
            ErrorCode::NoKeepalive => "No heartbeat is expected",
            ErrorCode::NotFound => "No such path",
            ErrorCode::MethodNotAllowed => "Not with this method",
            ErrorCode::NoCapacity => "No machine became ready in time",
            ErrorCode::QuotaExceeded => "The project has all it may have",
            ErrorCode::StartFailed => "No machine would start",
            ErrorCode::TooManyStreams => "Too many clients follow events",
            ErrorCode::GuestSilent => "The machine does not answer",
            ErrorCode::NotReady => "The server cannot serve now",
            _ => "The server failed",
        }
    }

    /// The sentence for the client. Faults of the server say no more than that.
    pub(super) fn detail(&self) -> String {
        match self {
            Self::Store(StoreError::DiskFull(_)) => {
                "the disk that holds the server's database is full".to_owned()
            }
            Self::Store(StoreError::Locked(_)) => {
                "another program holds the server's database".to_owned()
            }
            Self::Store(_)
            | Self::Random(_)
            | Self::Metrics(_)
            | Self::Panic
            | Self::Vanished(_) => {
                "the fault is the server's; its log has the details under this request's id"
                    .to_owned()
            }
            other => other.to_string(),
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::TlsRequired => {
                "write `https://` in the address; if a token came with the request, others may have \
                 read it on the way"
            }
            Self::NoToken => "send the header `Authorization: Bearer TOKEN`",
            Self::WrongToken | Self::Refused(Refusal::Unknown) => {
                "check that it was copied whole; the server's operator makes tokens with `remote-dockerd \
                 token create`, and has one of their own in the file `token` of the state folder"
            }
            Self::Refused(Refusal::Expired { .. } | Refusal::Revoked { .. }) => {
                "the server's operator makes a new one with `remote-dockerd token create`"
            }
            Self::Refused(Refusal::Oidc(oidc::Refusal::NoRule(_))) => {
                "the server's operator writes a rule under `[[oidc.rule]]` for jobs that claim this"
            }
            Self::Refused(Refusal::Oidc(oidc::Refusal::Unavailable)) => {
                "try again later; the server's operator finds the reason in the log"
            }
            Self::Refused(Refusal::Oidc(_)) => {
                "have the CI system sign a token for this job with the issuer and audience that the server's \
                 `[[oidc]]` names, and send it while it is good"
            }
            Self::OtherLease(_) => {
                "it opens that one lease; use the token that the lease was made with"
            }
            Self::AskerRefused(..) => {
                "it stays until its time is over or its keepalive is missed, and can be given back; use a token \
                 of the project that is good to keep it"
            }
            Self::Refused(Refusal::UnknownProject { .. }) => {
                "the server's operator knows which projects there are"
            }
            Self::Refused(Refusal::Unreadable) => {
                "try again later; the server's operator finds the reason at `/readyz` and in the log"
            }
            Self::MissingScope { .. } => {
                "use a token that was made with this scope; the server's operator makes one"
            }
            Self::BodyTooLarge { .. } => "a lease request has a few KiB; check what is being sent",
            Self::EgressNotOffered { .. } => {
                "ask for another; the server's operator decides in `network.egress` which there are"
            }
            Self::NotAllowed { .. } => {
                "choose one of those, or leave it out for the project's default"
            }
            Self::InvalidTtl { .. } => "choose another `ttl_s`, or leave it out for the default",
            Self::InvalidWait { .. } => {
                "choose another `wait_s`; with 0 the call answers at once, to be followed by `GET \
                 /v1/leases/{id}?wait_s=`"
            }
            Self::InvalidKeepalive { .. } => {
                "choose another `keepalive_s`, or leave it out if you send no heartbeats"
            }
            Self::InvalidIdle { .. } => {
                "choose another `idle_s`, or leave it out if idleness is no reason to end"
            }
            Self::InvalidExtension(_) => {
                "send `{\"remaining_s\": SECONDS}` or `{\"until\": \"2026-01-31T12:00:00Z\"}`, not \
                 beyond the latest moment that is allowed"
            }
            Self::InvalidIdempotencyKey(_) => {
                "send it once, with 1 to 255 visible ASCII characters, such as a random UUID"
            }
            Self::IdempotencyConflict => {
                "draw a new key for a new request; a repeated one must be the same in every byte of \
                 its values, the certificate request included (only `wait_s` may differ)"
            }
            Self::InvalidLastEventId(_) => {
                "send the `id` of the last event that was received, or leave the header out to get \
                 all events"
            }
            Self::InvalidQuery(_) => "the only parameter is `wait_s`, a number of seconds",
            Self::InvalidCsr(_) => {
                "`openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout \
                 key.pem -subj /CN=client` makes one"
            }
            Self::InvalidLabels(_) => "at most 16 labels, names of 1 to 64 bytes, values of 256",
            Self::InvalidId(_) => "`GET /v1/leases` lists the ids",
            Self::LeaseNotFound(_) => {
                "`GET /v1/leases` lists the leases there are; one that ended long ago is forgotten"
            }
            Self::LeaseEnded(_) => "`GET /v1/leases/{id}` tells why; ask for a new lease",
            Self::LeaseNotActive(_) => {
                "`GET /v1/leases/{id}?wait_s=` waits for it to get its machine"
            }
            Self::NoKeepalive(_) => {
                "send none, or ask for a lease with `keepalive_s`; `POST /v1/leases/{id}/extend` makes \
                 a lease last longer"
            }
            Self::NotFound => {
                "the calls are under `/v1/leases`, and `/healthz`, `/readyz` and `/metrics`; \
                 `/v1/openapi.json` describes them"
            }
            Self::MethodNotAllowed => "the header `Allow` has those it takes",
            Self::StartFailed(_) => {
                "it is the server's fault: its operator finds more in its log; trying again may help"
            }
            Self::TooManyStreams { .. } => {
                "follow the lease with `GET /v1/leases/{id}?wait_s=`, or try again later"
            }
            Self::GuestSilent(_) => "the machine may be busy or broken; try again",
            Self::QuotaExceeded(_) => {
                "give a lease of the project back, wait longer with a larger `wait_s`, or ask the \
                 server's operator for more"
            }
            Self::NoCapacity { .. } => "try again later, or wait longer with a larger `wait_s`",
            Self::NotReady(_) => "`GET /readyz` tells when it can; try again then",
            Self::Stopping => "try again when it is back",
            Self::Store(StoreError::DiskFull(_)) => "free some space there; nothing was lost",
            Self::Store(StoreError::Locked(_)) => {
                "try again; if it lasts, the server's operator finds what else has the file open"
            }
            _ => return None,
        })
    }

    fn log(&self) {
        let mut causes = String::new();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            causes.push_str(": ");
            causes.push_str(&error.to_string());
            source = error.source();
        }
        tracing::error!("request failed: {self}{causes}");
    }
}

impl IntoResponse for ApiError {
    /// An answer without a body: `request.rs` writes it from the problem in the extensions, as only
    /// there the request's id is known.
    fn into_response(self) -> Response {
        let (status, code) = self.code();
        let expected = [
            ErrorCode::NoCapacity,
            ErrorCode::TooManyStreams,
            ErrorCode::OidcUnavailable,
        ];
        // Whoever has no good token must not fill the log; why tokens cannot be read is told once.
        let is_told = matches!(self, Self::Refused(_) | Self::AskerRefused(..));
        if status.is_server_error() && !expected.contains(&code) && !is_told {
            self.log();
        }
        let mut response = status.into_response();
        let headers = response.headers_mut();
        match &self {
            Self::NoToken => {
                let challenge = HeaderValue::from_static("Bearer");
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            Self::WrongToken | Self::Refused(_) | Self::AskerRefused(..)
                if status == StatusCode::UNAUTHORIZED =>
            {
                let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            _ => {}
        }
        let has_no_business = status == StatusCode::UNAUTHORIZED
            || matches!(self, Self::Refused(_) | Self::TlsRequired);
        if has_no_business {
            // Whoever has no business here need not stay.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if [
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::TOO_MANY_REQUESTS,
        ]
        .contains(&status)
        {
            let after = match self {
                Self::NoCapacity {
                    estimated_wait_s: Some(estimate),
                    ..
                } => estimate.clamp(1, LONGEST_RETRY_AFTER_S),
                _ => RETRY_AFTER_S,
            };
            headers.insert(header::RETRY_AFTER, after.into());
        }
        response.extensions_mut().insert(Problem {
            kind: "about:blank".to_owned(),
            title: Self::title(code).to_owned(),
            status: status.as_u16(),
            detail: self.detail(),
            code,
            hint: self.hint().map(str::to_owned),
            request_id: None,
        });
        response
    }
}
