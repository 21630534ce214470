//! The server's HTTP API, asked directly.

use std::time::Duration;

use remote_docker_api::{CreateLease, Lease, LeaseId, LeaseList, Problem};
use reqwest::Method;
use reqwest::blocking::{Client, RequestBuilder, Response};

/// How long an answer may take beyond what it was asked to wait.
const LIMIT: Duration = Duration::from_secs(60);

/// One server's API. Connections are made by the calling thread's namespace, so it has to be made by
/// the test itself.
#[derive(Debug, Clone)]
pub struct Api {
    base: String,
    token: String,
    http: Client,
}

impl Api {
    /// The API at `base`, such as `http://127.0.0.1:7420`.
    ///
    /// # Panics
    /// When no client can be made.
    #[must_use]
    pub fn new(base: &str, token: &str) -> Self {
        let http = Client::builder()
            .no_proxy()
            // A server that was killed and started again must not be asked on an old connection.
            .pool_max_idle_per_host(0)
            .build()
            .expect("an HTTP client");
        Self {
            base: base.to_owned(),
            token: token.to_owned(),
            http,
        }
    }

    /// A request with the token.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(&self.token)
            .timeout(LIMIT)
    }

    /// `POST /v1/leases`.
    ///
    /// # Errors
    /// The problem that the server names.
    ///
    /// # Panics
    /// When there is no answer, or none that makes sense.
    pub fn create(&self, body: &CreateLease) -> Result<Lease, Box<Problem>> {
        let wait = Duration::from_secs(body.wait_s.unwrap_or(0).unsigned_abs());
        let answer = self
            .request(Method::POST, "/v1/leases")
            .timeout(LIMIT + wait)
            .json(body)
            .send()
            .expect("an answer to POST /v1/leases");
        read(answer)
    }

    /// `GET /v1/leases/{id}`, waiting for a change if told so.
    ///
    /// # Errors
    /// The problem that the server names.
    ///
    /// # Panics
    /// When there is no answer, or none that makes sense.
    pub fn show(&self, id: LeaseId, wait_s: u64) -> Result<Lease, Box<Problem>> {
        let answer = self
            .request(Method::GET, &format!("/v1/leases/{id}?wait_s={wait_s}"))
            .timeout(LIMIT + Duration::from_secs(wait_s))
            .send()
            .expect("an answer to GET /v1/leases/{id}");
        read(answer)
    }

    /// `GET /v1/leases`.
    ///
    /// # Panics
    /// When there is no answer, or it is a refusal.
    #[must_use]
    pub fn list(&self) -> Vec<Lease> {
        let answer = self.request(Method::GET, "/v1/leases").send();
        let list: LeaseList =
            read(answer.expect("an answer to GET /v1/leases")).expect("the leases");
        list.leases
    }

    /// `DELETE /v1/leases/{id}`.
    ///
    /// # Panics
    /// When there is no answer, or it is a refusal.
    pub fn release(&self, id: LeaseId) {
        let answer = self
            .request(Method::DELETE, &format!("/v1/leases/{id}"))
            .send()
            .expect("an answer to DELETE /v1/leases/{id}");
        assert!(answer.status().is_success(), "{answer:?}");
    }

    /// `GET /readyz`.
    ///
    /// # Errors
    /// Why the server is not ready, in its own words.
    pub fn ready(&self) -> Result<(), String> {
        let answer = self
            .request(Method::GET, "/readyz")
            .send()
            .map_err(|error| error.to_string())?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(answer.text().unwrap_or_else(|error| error.to_string()))
    }
}

fn read<T: serde::de::DeserializeOwned>(answer: Response) -> Result<T, Box<Problem>> {
    let status = answer.status();
    let text = answer.text().expect("the body of the answer");
    if status.is_success() {
        return Ok(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")));
    }
    Err(serde_json::from_str(&text)
        .map(Box::new)
        .unwrap_or_else(|error| panic!("{status}, {error}: {text}")))
}
