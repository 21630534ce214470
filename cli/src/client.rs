//! The calls of the server's API.

use std::future::{Future, pending};
use std::pin::pin;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use remote_docker_api::{
    CreateLease, ErrorCode, Lease, LeaseId, LeaseList, PROBLEM_CONTENT_TYPE, Problem,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use crate::config::{Settings, Token};
use crate::server_url::ServerUrl;
use crate::transport::{Answer, Exchange, TransportError, exchange};

/// How long a request that was given up is read on.
const GOODBYE: Duration = Duration::from_secs(2);
/// A request with a name is sent again for so long after the first failure; a server that restarts
/// keeps its place for as long.
const RETRY_LIMIT: Duration = Duration::from_secs(30);
/// Pause before that.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Pause before a release that failed is tried again.
const RELEASE_PAUSE: Duration = Duration::from_millis(250);
/// A release is tried for so long at most.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);

/// Speaks to one server.
#[derive(Debug)]
pub(crate) struct Client {
    server: ServerUrl,
    token: Token,
    timeout: Duration,
}

/// A call had no success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("cannot reach the server at {server}")]
    Unreachable {
        server: ServerUrl,
        source: std::io::Error,
    },
    #[error("the connection to the server at {server} broke before its answer was complete")]
    Broken {
        server: ServerUrl,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the server at {server} did not answer within {}", humantime::format_duration(*limit))]
    Silent { server: ServerUrl, limit: Duration },
    #[error("the answer of the server at {server} cannot be used: {what}")]
    Unusable {
        server: ServerUrl,
        what: &'static str,
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
        /// The lease that the answer was about, where that much could be read.
        lease: Option<LeaseId>,
    },
    #[error("{} ({}): {}", refusal(.0), .0.code.as_str(), if .0.detail.is_empty() { &.0.title } else { &.0.detail })]
    Refused(Box<Problem>),
    #[error("the server at {server} answered {status} and did not say why")]
    Status {
        server: ServerUrl,
        status: StatusCode,
    },
}

fn refusal(problem: &Problem) -> &'static str {
    if problem.status >= 500 {
        "the server cannot do it now"
    } else {
        "the server refused the request"
    }
}

impl ApiError {
    /// The server's code, if it gave one.
    pub(crate) fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(problem) => Some(problem.code),
            _ => None,
        }
    }

    /// Whether a server that goes on where it was would answer the same call when it is back.
    fn is_loss_of_touch(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } => true,
            Self::Refused(problem) => problem.code == ErrorCode::NotReady,
            _ => false,
        }
    }

    /// Whether the same call may have success a moment later.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Silent { .. } => true,
            Self::Refused(problem) => problem.status >= 500,
            Self::Status { status, .. } => status.is_server_error(),
            Self::Unusable { .. } => false,
        }
    }
}

/// Why there is no lease.
#[derive(Debug)]
pub(crate) enum NotLeased<R> {
    /// The call had no success.
    Failed(ApiError),
    /// It was given up for this reason; the lease is there if it had been made all the same.
    GivenUp(R, Option<LeaseId>),
}

/// How a release went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Released {
    /// It is given back, or was before.
    Yes,
    /// The server does not know it.
    Unknown,
}

/// As much of an answer as is needed to give the lease back when the rest makes no sense.
#[derive(Deserialize)]
struct JustId {
    id: LeaseId,
}

impl Client {
    /// A client after these settings; it connects with each call.
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            server: settings.server.clone(),
            token: settings.token.clone(),
            timeout: settings.timeout,
        }
    }

    /// The server that this client speaks to.
    pub(crate) fn server(&self) -> &ServerUrl {
        &self.server
    }

    /// An answer that arrived but makes no sense.
    pub(crate) fn unusable(&self, what: &'static str, lease: Option<LeaseId>) -> ApiError {
        ApiError::Unusable {
            server: self.server.clone(),
            what,
            source: None,
            lease,
        }
    }

    /// `POST /v1/leases`, waiting for a machine as long as `body` says, until `give_up` resolves. With
    /// a name for the request it is sent again when the server goes away meanwhile.
    ///
    /// # Errors
    /// As for any call, or that it was given up.
    pub(crate) async fn create<R>(
        &self,
        body: &CreateLease,
        idempotency_key: Option<&str>,
        give_up: impl Future<Output = R>,
    ) -> Result<Lease, NotLeased<R>> {
        let mut give_up = pin!(give_up);
        let mut until = None;
        loop {
            let once = self.create_once(body, idempotency_key, &mut give_up);
            let error = match once.await {
                Err(NotLeased::Failed(error)) => error,
                result => return result,
            };
            // Without a name the server could not know that it is the same request.
            let until = *until.get_or_insert_with(|| Instant::now() + RETRY_LIMIT);
            let again = idempotency_key.is_some() && error.is_loss_of_touch();
            if !again || Instant::now() + RETRY_PAUSE > until {
                return Err(NotLeased::Failed(error));
            }
            tokio::select! {
                reason = &mut give_up => return Err(NotLeased::GivenUp(reason, None)),
                () = sleep(RETRY_PAUSE) => {}
            }
        }
    }

    async fn create_once<R>(
        &self,
        body: &CreateLease,
        idempotency_key: Option<&str>,
        give_up: impl Future<Output = R>,
    ) -> Result<Lease, NotLeased<R>> {
        let wait = Duration::from_secs(body.wait_s.unwrap_or(0).unsigned_abs());
        let limit = wait.saturating_add(self.timeout);
        let json =
            serde_json::to_vec(body).map_err(|error| NotLeased::Failed(self.encoding(error)))?;
        let mut request = self.request(Method::POST, "/v1/leases", json);
        // The command line takes visible ASCII only, which always is a value.
        let key = idempotency_key.and_then(|key| header::HeaderValue::from_str(key).ok());
        if let Some(key) = key {
            request.headers_mut().insert("idempotency-key", key);
        }
        let mut why = None;
        let end = async {
            tokio::select! {
                reason = give_up => why = Some(reason),
                () = sleep(limit) => {}
            }
        };
        let result = exchange(&self.server, request, end, GOODBYE).await;
        match (result, why) {
            (Ok(Exchange::GivenUp(late)), Some(reason)) => {
                let lease = late.and_then(|answer| just_id(&answer));
                Err(NotLeased::GivenUp(reason, lease))
            }
            // An answer in the very last moment is an answer.
            (Ok(Exchange::Answered(answer) | Exchange::GivenUp(Some(answer))), _) => {
                self.read(answer).map_err(NotLeased::Failed)
            }
            (Ok(Exchange::GivenUp(None)), None) => Err(NotLeased::Failed(self.silent(limit))),
            (Err(error), _) => Err(NotLeased::Failed(self.transport_error(error))),
        }
    }

    /// `GET /v1/leases/{id}`, waiting up to `wait` for it to change.
    ///
    /// # Errors
    /// As for any call; `lease_not_found` if the server does not know it.
    pub(crate) async fn show(&self, id: LeaseId, wait: Duration) -> Result<Lease, ApiError> {
        let path = format!("/v1/leases/{id}?wait_s={}", wait.as_secs());
        let limit = self.timeout.saturating_add(wait);
        let answer = self.call(Method::GET, &path, limit).await?;
        let lease: Lease = self.read(answer)?;
        if lease.id == id {
            Ok(lease)
        } else {
            Err(self.unusable("it is about another lease", None))
        }
    }

    /// `POST /v1/leases/{id}/heartbeat`, within `limit`.
    ///
    /// # Errors
    /// As for any call; `lease_ended` and others when there is nothing to keep alive.
    pub(crate) async fn heartbeat(&self, id: LeaseId, limit: Duration) -> Result<(), ApiError> {
        let path = format!("/v1/leases/{id}/heartbeat");
        let limit = limit.min(self.timeout);
        let answer = self.call(Method::POST, &path, limit).await?;
        if answer.status.is_success() {
            Ok(())
        } else {
            Err(self.refused(&answer))
        }
    }

    /// `GET /v1/leases`.
    ///
    /// # Errors
    /// As for any call.
    pub(crate) async fn list(&self) -> Result<LeaseList, ApiError> {
        let answer = self.call(Method::GET, "/v1/leases", self.timeout).await?;
        self.read(answer)
    }

    /// `DELETE /v1/leases/{id}`, once.
    ///
    /// # Errors
    /// As for any call; that the server does not know the lease is none.
    pub(crate) async fn release(&self, id: LeaseId) -> Result<Released, ApiError> {
        let path = format!("/v1/leases/{id}");
        let answer = self.call(Method::DELETE, &path, self.timeout).await?;
        if answer.status.is_success() {
            return Ok(Released::Yes);
        }
        match self.refused(&answer) {
            error if error.code() == Some(ErrorCode::LeaseNotFound) => Ok(Released::Unknown),
            error => Err(error),
        }
    }

    /// Releases, trying again for a bounded time while that may help.
    ///
    /// # Errors
    /// The last failure.
    pub(crate) async fn release_with_patience(&self, id: LeaseId) -> Result<Released, ApiError> {
        let limit = RELEASE_LIMIT.min(self.timeout);
        let mut last = None;
        let attempts = async {
            loop {
                match self.release(id).await {
                    Err(error) if error.may_pass() => last = Some(error),
                    result => return result,
                }
                sleep(RELEASE_PAUSE).await;
            }
        };
        match timeout(limit, attempts).await {
            Ok(result) => result,
            Err(_) => Err(last.unwrap_or_else(|| self.silent(limit))),
        }
    }

    async fn call(&self, method: Method, path: &str, limit: Duration) -> Result<Answer, ApiError> {
        let request = self.request(method, path, Vec::new());
        let answer = timeout(
            limit,
            exchange(&self.server, request, pending(), Duration::ZERO),
        );
        match answer.await {
            Ok(Ok(Exchange::Answered(answer))) => Ok(answer),
            Ok(Err(error)) => Err(self.transport_error(error)),
            Ok(Ok(Exchange::GivenUp(_))) | Err(_) => Err(self.silent(limit)),
        }
    }

    fn request(&self, method: Method, path: &str, json: Vec<u8>) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(Bytes::from(json)));
        *request.method_mut() = method;
        // URL and token were checked when they were read, so neither of these can fail; a request
        // without them would be answered by a clear refusal.
        if let Ok(uri) = self.server.path(path).parse() {
            *request.uri_mut() = uri;
        }
        let headers = request.headers_mut();
        if let Ok(mut token) = header::HeaderValue::from_str(&self.token.header_value()) {
            token.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, token);
        }
        if let Ok(host) = header::HeaderValue::from_str(&self.server.authority()) {
            headers.insert(header::HOST, host);
        }
        let json = header::HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        let agent = concat!("setup-remote-docker/", env!("CARGO_PKG_VERSION"));
        headers.insert(header::USER_AGENT, header::HeaderValue::from_static(agent));
        request
    }

    fn read<T: DeserializeOwned>(&self, answer: Answer) -> Result<T, ApiError> {
        if !answer.status.is_success() {
            return Err(self.refused(&answer));
        }
        serde_json::from_slice(&answer.body).map_err(|error| ApiError::Unusable {
            server: self.server.clone(),
            what: "it is not the JSON that was expected",
            source: Some(Box::new(error)),
            lease: just_id(&answer),
        })
    }

    fn refused(&self, answer: &Answer) -> ApiError {
        if answer.content_type.starts_with(PROBLEM_CONTENT_TYPE)
            && let Ok(problem) = serde_json::from_slice(&answer.body)
        {
            return ApiError::Refused(Box::new(problem));
        }
        ApiError::Status {
            server: self.server.clone(),
            status: answer.status,
        }
    }

    fn transport_error(&self, error: TransportError) -> ApiError {
        let server = self.server.clone();
        match error {
            TransportError::Connect(source) => ApiError::Unreachable { server, source },
            TransportError::Broken(source) => ApiError::Broken { server, source },
            TransportError::TooLarge => self.unusable("it is larger than 1 MiB", None),
            TransportError::NotHttp(source) => ApiError::Unusable {
                server,
                what: "it is not HTTP",
                source: Some(Box::new(source)),
                lease: None,
            },
        }
    }

    fn encoding(&self, error: serde_json::Error) -> ApiError {
        ApiError::Unusable {
            server: self.server.clone(),
            what: "the request could not be written as JSON",
            source: Some(Box::new(error)),
            lease: None,
        }
    }

    fn silent(&self, limit: Duration) -> ApiError {
        ApiError::Silent {
            server: self.server.clone(),
            limit,
        }
    }
}

fn just_id(answer: &Answer) -> Option<LeaseId> {
    if !answer.status.is_success() {
        return None;
    }
    let just: JustId = serde_json::from_slice(&answer.body).ok()?;
    Some(just.id)
}
