//! The one place that turns errors into HTTP: status, stable code, and a sentence for people.
//!
//! What a client reads says what it can act on; sources of faults of the server go to the log, under
//! the request's id.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use remote_docker_api::{ErrorCode, LeaseId, ParseIdError, Problem};

use super::catalogue::UnknownOffer;
use crate::pki::CsrError;
use crate::store::StoreError;

/// When to come back after a "not now", in seconds.
const RETRY_AFTER_S: u16 = 10;

/// Why a request is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("the request has no token")]
    NoToken,
    #[error("the token is not good here")]
    WrongToken,
    #[error("{0}")]
    InvalidBody(String),
    #[error("the body has more than {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("the body did not arrive within {seconds} s")]
    BodyTooSlow { seconds: u64 },
    #[error(transparent)]
    Offer(#[from] UnknownOffer),
    #[error("`ttl_s` is {asked}; allowed are 1 to {max} seconds")]
    InvalidTtl { asked: i64, max: u32 },
    #[error("`wait_s` is {asked}; allowed are 0 to {max} seconds")]
    InvalidWait { asked: i64, max: u32 },
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
    #[error("there is no such path")]
    NotFound,
    #[error("the path does not take this method")]
    MethodNotAllowed,
    #[error("{0}")]
    NoCapacity(String),
    #[error("the server cannot serve leases now: {0}")]
    NotReady(String),
    #[error("the server is stopping")]
    Stopping,
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the system gives no random numbers")]
    Random(#[from] getrandom::Error),
    /// The panic itself was logged by the panic hook, inside the request's span.
    #[error("the handler panicked")]
    Panic,
    #[error("lease {0} vanished while a request waited for it")]
    Vanished(LeaseId),
}

impl ApiError {
    fn code(&self) -> (StatusCode, ErrorCode) {
        use ErrorCode as Code;
        match self {
            Self::NoToken | Self::WrongToken => (StatusCode::UNAUTHORIZED, Code::Unauthorized),
            Self::InvalidBody(_) => (StatusCode::BAD_REQUEST, Code::InvalidBody),
            Self::BodyTooSlow { .. } => (StatusCode::REQUEST_TIMEOUT, Code::InvalidBody),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, Code::BodyTooLarge),
            Self::Offer(UnknownOffer::Engine { .. }) => {
                (StatusCode::UNPROCESSABLE_ENTITY, Code::UnknownEngine)
            }
            Self::Offer(UnknownOffer::Size { .. }) => {
                (StatusCode::UNPROCESSABLE_ENTITY, Code::UnknownSize)
            }
            Self::InvalidTtl { .. } => (StatusCode::UNPROCESSABLE_ENTITY, Code::InvalidTtl),
            Self::InvalidWait { .. } => (StatusCode::UNPROCESSABLE_ENTITY, Code::InvalidWait),
            Self::InvalidQuery(_) => (StatusCode::BAD_REQUEST, Code::InvalidWait),
            Self::InvalidCsr(_) => (StatusCode::UNPROCESSABLE_ENTITY, Code::InvalidCsr),
            Self::InvalidLabels(_) => (StatusCode::UNPROCESSABLE_ENTITY, Code::InvalidLabels),
            Self::InvalidId(_) => (StatusCode::BAD_REQUEST, Code::InvalidId),
            Self::LeaseNotFound(_) => (StatusCode::NOT_FOUND, Code::LeaseNotFound),
            Self::NotFound => (StatusCode::NOT_FOUND, Code::NotFound),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, Code::MethodNotAllowed),
            Self::NoCapacity(_) => (StatusCode::SERVICE_UNAVAILABLE, Code::NoCapacity),
            Self::NotReady(_) | Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, Code::NotReady),
            Self::Store(StoreError::DiskFull(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, Code::NotReady)
            }
            Self::Store(_) | Self::Random(_) | Self::Panic | Self::Vanished(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal)
            }
        }
    }

    fn title(code: ErrorCode) -> &'static str {
        match code {
            ErrorCode::Unauthorized => "A token is needed",
            ErrorCode::InvalidBody => "The body is not what this call takes",
            ErrorCode::BodyTooLarge => "The body is too large",
            ErrorCode::UnknownEngine => "No such engine",
            ErrorCode::UnknownSize => "No such size",
            ErrorCode::InvalidTtl => "No lease can last so long",
            ErrorCode::InvalidWait => "No call can wait so long",
            ErrorCode::InvalidCsr => "The certificate request is refused",
            ErrorCode::InvalidLabels => "The labels are refused",
            ErrorCode::InvalidId => "That is not an id",
            ErrorCode::LeaseNotFound => "No such lease",
            ErrorCode::NotFound => "No such path",
            ErrorCode::MethodNotAllowed => "Not with this method",
            ErrorCode::NoCapacity => "No machine became ready in time",
            ErrorCode::NotReady => "The server cannot serve now",
            _ => "The server failed",
        }
    }

    /// The sentence for the client. Faults of the server say no more than that.
    fn detail(&self) -> String {
        match self {
            Self::Store(StoreError::DiskFull(_)) => {
                "the disk that holds the server's database is full".to_owned()
            }
            Self::Store(_) | Self::Random(_) | Self::Panic | Self::Vanished(_) => {
                "the fault is the server's; its log has the details under this request's id"
                    .to_owned()
            }
            other => other.to_string(),
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoToken => "send the header `Authorization: Bearer TOKEN`",
            Self::WrongToken => {
                "the server's token is in the file `token` in its state folder; check that it was \
                 copied whole"
            }
            Self::BodyTooLarge { .. } => "a lease request has a few KiB; check what is being sent",
            Self::InvalidTtl { .. } => "choose another `ttl_s`, or leave it out for the default",
            Self::InvalidWait { .. } => {
                "choose another `wait_s`; with 0 the call answers at once, to be followed by `GET \
                 /v1/leases/{id}?wait_s=`"
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
            Self::NotFound => "the calls are under `/v1/leases`, `/healthz` and `/readyz`",
            Self::MethodNotAllowed => "the header `Allow` has those it takes",
            Self::NoCapacity(_) => "try again later, or wait longer with a larger `wait_s`",
            Self::NotReady(_) => "`GET /readyz` tells when it can; try again then",
            Self::Stopping => "try again when it is back",
            Self::Store(StoreError::DiskFull(_)) => "free some space there; nothing was lost",
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
        if status.is_server_error() && code != ErrorCode::NoCapacity {
            self.log();
        }
        let mut response = status.into_response();
        let headers = response.headers_mut();
        match &self {
            Self::NoToken => {
                let challenge = HeaderValue::from_static("Bearer");
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            Self::WrongToken => {
                let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            _ => {}
        }
        if status == StatusCode::UNAUTHORIZED {
            // Whoever has no business here need not stay.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER_S.into());
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
