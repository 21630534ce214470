//! `POST /v1/leases`: asked, waited for, sent again, given up.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use hyper::{Method, header};
use remote_docker_api::{CreateLease, Lease, LeaseId};
use tokio::time::{Instant, sleep};

use super::{ApiError, Client, just_id};
use crate::transport::{Exchange, exchange};

/// How long a request that was given up is read on.
const GOODBYE: Duration = Duration::from_secs(2);
/// A request with a name is sent again for so long after the first failure; a server that restarts
/// keeps its place for as long.
const RETRY_LIMIT: Duration = Duration::from_secs(30);
/// Pause before that.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Why there is no lease.
#[derive(Debug)]
pub(crate) enum NotLeased<R> {
    /// The call had no success.
    Failed(ApiError),
    /// It was given up for this reason; the lease is there if it had been made all the same.
    GivenUp(R, Option<LeaseId>),
}

impl Client {
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
        let result = exchange(&self.server, &self.trust, request, end, GOODBYE).await;
        match (result, why) {
            (Ok(Exchange::GivenUp(late)), Some(reason)) => {
                let lease = late.and_then(|answer| {
                    self.take_up(&answer);
                    just_id(&answer)
                });
                Err(NotLeased::GivenUp(reason, lease))
            }
            // An answer in the very last moment is an answer.
            (Ok(Exchange::Answered(answer) | Exchange::GivenUp(Some(answer))), _) => {
                self.take_up(&answer);
                self.read(answer).map_err(NotLeased::Failed)
            }
            (Ok(Exchange::GivenUp(None)), None) => Err(NotLeased::Failed(self.silent(limit))),
            (Err(error), _) => Err(NotLeased::Failed(self.transport_error(error))),
        }
    }
}
