//! The calls of the server's API.

use std::cell::OnceCell;
use std::future::pending;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use remote_docker_api::{
    ErrorCode, ExtendLease, KeepLease, Lease, LeaseId, LeaseList, LeaseLogs, PROBLEM_CONTENT_TYPE,
    Problem, Secret,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use crate::config::{Settings, Token};
use crate::server_url::ServerUrl;
use crate::tls::{TlsFailure, Trust};
use crate::transport::{Answer, Exchange, TransportError, exchange};

/// Pause before a call that failed for the moment is tried again.
const PATIENT_PAUSE: Duration = Duration::from_millis(250);
/// Such a call is tried for so long at most.
const PATIENT_LIMIT: Duration = Duration::from_secs(10);

mod create;
mod error;

pub(crate) use create::NotLeased;
pub(crate) use error::ApiError;

/// Speaks to one server.
#[derive(Debug)]
pub(crate) struct Client {
    server: ServerUrl,
    trust: Trust,
    token: Token,
    /// The credential of the one lease that this client made, and the path of its calls.
    of_lease: OnceCell<(String, Token)>,
    timeout: Duration,
}

/// How a release went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Released {
    /// It is given back, or was before.
    Yes,
    /// The server does not know it.
    Unknown,
}

/// The code of a problem, whatever it is.
#[derive(Deserialize)]
struct JustCode {
    code: String,
}

/// As much of an answer as is needed to give the lease back when the rest makes no sense.
#[derive(Deserialize)]
struct JustId {
    id: LeaseId,
    #[serde(default)]
    token: Option<Secret>,
}

impl Client {
    /// A client after these settings; it connects with each call.
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            server: settings.server.clone(),
            trust: settings.trust.clone(),
            token: settings.token.clone(),
            of_lease: OnceCell::new(),
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

    /// `GET /v1/leases/{id}`, waiting up to `wait` for it to change.
    ///
    /// # Errors
    /// As for any call; `lease_not_found` if the server does not know it.
    pub(crate) async fn show(&self, id: LeaseId, wait: Duration) -> Result<Lease, ApiError> {
        let path = format!("/v1/leases/{id}?wait_s={}", wait.as_secs());
        let limit = self.timeout.saturating_add(wait);
        let answer = self.call(Method::GET, &path, limit).await?;
        self.about(self.read(answer)?, id)
    }

    /// The same, waiting for it to become other than what the tag `seen` names, which misses nothing that happened
    /// between two calls, and with the tag of what it is now. `None` when it is as it was.
    ///
    /// # Errors
    /// As [`Self::show`].
    pub(crate) async fn show_other(
        &self,
        id: LeaseId,
        wait: Duration,
        seen: &str,
    ) -> Result<Option<(Lease, String)>, ApiError> {
        let path = format!("/v1/leases/{id}?wait_s={}", wait.as_secs());
        let mut request = self.request(Method::GET, &path, Vec::new());
        // It is the server's own; without it, what changes while this call waits is told.
        if let Ok(seen) = header::HeaderValue::from_str(seen)
            && !seen.is_empty()
        {
            request.headers_mut().insert(header::IF_NONE_MATCH, seen);
        }
        let answer = self
            .send(request, self.timeout.saturating_add(wait))
            .await?;
        if answer.status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let etag = answer.etag.clone();
        Ok(Some((self.about(self.read(answer)?, id)?, etag)))
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
        self.with_patience(async || self.release(id).await).await
    }

    /// `POST /v1/leases/{id}/extend`, trying again for a bounded time while that may help: the lease lasts
    /// at least so many seconds more, so that asking twice does no harm.
    ///
    /// # Errors
    /// The last failure; `invalid_extension` if the server lets no lease last so long.
    pub(crate) async fn extend(&self, id: LeaseId, remaining_s: i64) -> Result<Lease, ApiError> {
        let body = ExtendLease {
            remaining_s: Some(remaining_s),
            until: None,
        };
        self.ask_of(id, "extend", &body).await
    }

    /// `POST /v1/leases/{id}/keep`: its machine stays for so long, and nobody is expected to use it.
    ///
    /// # Errors
    /// As for any call.
    pub(crate) async fn keep(&self, id: LeaseId, keep_s: i64) -> Result<Lease, ApiError> {
        self.ask_of(id, "keep", &KeepLease { keep_s }).await
    }

    /// Asks something of a lease that may be asked twice, and answers the lease as it is then.
    async fn ask_of(
        &self,
        id: LeaseId,
        what: &str,
        body: &impl Serialize,
    ) -> Result<Lease, ApiError> {
        let path = format!("/v1/leases/{id}/{what}");
        let json = serde_json::to_vec(body).map_err(|error| self.encoding(error))?;
        self.with_patience(async || {
            let request = self.request(Method::POST, &path, json.clone());
            let lease: Lease = self.read(self.send(request, self.timeout).await?)?;
            self.about(lease, id)
        })
        .await
    }

    /// `GET /v1/leases/{id}/logs`.
    ///
    /// # Errors
    /// As for any call; `guest_silent` if its machine does not answer the server.
    pub(crate) async fn logs(&self, id: LeaseId) -> Result<LeaseLogs, ApiError> {
        let path = format!("/v1/leases/{id}/logs");
        let answer = self.call(Method::GET, &path, self.timeout).await?;
        self.read(answer)
    }

    /// `GET` of a path that answers everybody: its status, its body, and the server's clock.
    ///
    /// # Errors
    /// There is no answer.
    pub(crate) async fn probe(&self, path: &str) -> Result<Answer, ApiError> {
        let mut request = self.request(Method::GET, path, Vec::new());
        // Whoever listens there may not be the one that the token is for.
        request.headers_mut().remove(header::AUTHORIZATION);
        self.send(request, self.timeout).await
    }

    /// Tries the same call for a bounded time while its failures may pass.
    async fn with_patience<T>(
        &self,
        call: impl AsyncFn() -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let limit = PATIENT_LIMIT.min(self.timeout);
        let mut last = None;
        let attempts = async {
            loop {
                match call().await {
                    Err(error) if error.may_pass() => last = Some(error),
                    result => return result,
                }
                sleep(PATIENT_PAUSE).await;
            }
        };
        match timeout(limit, attempts).await {
            Ok(result) => result,
            Err(_) => Err(last.unwrap_or_else(|| self.silent(limit))),
        }
    }

    fn about(&self, lease: Lease, id: LeaseId) -> Result<Lease, ApiError> {
        if lease.id == id {
            Ok(lease)
        } else {
            Err(self.unusable("it is about another lease", None))
        }
    }

    async fn call(&self, method: Method, path: &str, limit: Duration) -> Result<Answer, ApiError> {
        self.send(self.request(method, path, Vec::new()), limit)
            .await
    }

    async fn send(
        &self,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<Answer, ApiError> {
        let answer = timeout(
            limit,
            exchange(
                &self.server,
                &self.trust,
                request,
                pending(),
                Duration::ZERO,
            ),
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
        let token = match self.of_lease.get() {
            Some((lease, token)) if path.starts_with(lease.as_str()) => token,
            _ => &self.token,
        };
        if let Ok(mut token) = header::HeaderValue::from_str(&token.header_value()) {
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
            && let Ok(problem) = serde_json::from_slice::<Problem>(&answer.body)
        {
            let code = match problem.code {
                ErrorCode::Unknown => serde_json::from_slice(&answer.body)
                    .map_or_else(|_| String::new(), |JustCode { code }| code),
                known => known.as_str().to_owned(),
            };
            return ApiError::Refused(Box::new(problem), code);
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
            TransportError::Tls(TlsFailure { fault, source }) => ApiError::Tls {
                server,
                fault,
                source,
            },
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

    /// Takes up the credential of the lease that an answer is about, for all that is still to be said of it: what it
    /// was made with may be over by then.
    fn take_up(&self, answer: &Answer) {
        let just = serde_json::from_slice::<JustId>(&answer.body).ok();
        let just = just.filter(|_| answer.status.is_success());
        if let Some(JustId { id, token }) = just
            && let Some(token) = token.and_then(|token| Token::of_lease(token.reveal()))
        {
            // A client makes one lease.
            let _ = self.of_lease.set((format!("/v1/leases/{id}"), token));
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
