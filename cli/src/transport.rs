//! One HTTP exchange over one connection, bounded in time and size.
//!
//! A request that waits for a machine can be given up so that nothing is lost: the client closes
//! its sending side only and reads on. The server takes that for the client going away, frees the
//! place and closes; or it had already answered, and then the answer is still read and the caller
//! learns which lease to give back. Closing the whole connection would leave that open.
//! With TLS it is the connection below it that is closed so; a server takes that for the same.

use std::cell::OnceCell;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::rt::{Read, Write};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{Shutdown, shutdown};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::server_url::ServerUrl;
use crate::tls::{TlsFailure, Trust};

/// An answer above this many bytes is refused.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// How long a connection may take to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// What the server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: String,
    /// The server's clock (`Date`), as it was written.
    pub(crate) date: String,
    /// Names what the answer tells (`ETag`), as it was written; empty without one.
    pub(crate) etag: String,
    pub(crate) body: Bytes,
}

/// How an exchange ended that did not fail.
#[derive(Debug)]
pub(crate) enum Exchange {
    /// With an answer, in time.
    Answered(Answer),
    /// It was given up; the answer is there if it had been sent before the server noticed.
    GivenUp(Option<Answer>),
}

/// No answer could be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("no TLS came about")]
    Tls(TlsFailure),
    #[error("the connection broke before the answer was complete")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the answer is not HTTP")]
    NotHttp(#[source] hyper::Error),
    #[error("the answer is larger than {MAX_ANSWER_BYTES} bytes")]
    TooLarge,
}

/// Sends `request` and reads the answer, until `give_up` resolves; then reads for `goodbye` more.
///
/// # Errors
/// The server cannot be reached, or the connection breaks, or the answer is too large.
pub(crate) async fn exchange(
    server: &ServerUrl,
    trust: &Trust,
    request: Request<Full<Bytes>>,
    give_up: impl Future<Output = ()>,
    goodbye: Duration,
) -> Result<Exchange, TransportError> {
    let connection = OnceCell::new();
    let mut answer = pin!(perform(server, trust, request, &connection));
    tokio::select! {
        // An answer that is there wins over a signal that came at the same time.
        biased;
        answer = &mut answer => return answer.map(Exchange::Answered),
        () = give_up => {}
    }
    let Some(connection) = connection.get() else {
        return Ok(Exchange::GivenUp(None));
    };
    // This fails only when the connection is gone, and then the read below ends at once.
    let _ = shutdown(connection.as_raw_fd(), Shutdown::Write);
    let late = timeout(goodbye, answer).await;
    Ok(Exchange::GivenUp(late.ok().and_then(Result::ok)))
}

async fn perform(
    server: &ServerUrl,
    trust: &Trust,
    request: Request<Full<Bytes>>,
    connection: &OnceCell<OwnedFd>,
) -> Result<Answer, TransportError> {
    let stream = timeout(
        CONNECT_LIMIT,
        TcpStream::connect((server.host(), server.port())),
    )
    .await
    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    .map_err(TransportError::Connect)?;
    let handle = stream
        .as_fd()
        .try_clone_to_owned()
        .map_err(TransportError::Connect)?;
    // The cell is fresh for each exchange, so this cannot be refused.
    let _ = connection.set(handle);

    if server.is_tls() {
        let begun = timeout(CONNECT_LIMIT, trust.connect(server.host(), stream)).await;
        let stream = begun
            .map_err(|_| TransportError::Connect(io::ErrorKind::TimedOut.into()))?
            .map_err(TransportError::Tls)?;
        converse(TokioIo::new(stream), request).await
    } else {
        converse(TokioIo::new(stream), request).await
    }
}

async fn converse(
    stream: impl Read + Write + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Answer, TransportError> {
    let (mut sender, driver) = hyper::client::conn::http1::handshake(stream)
        .await
        .map_err(broken)?;
    // The set ends the driver, and with it the connection, when this future is dropped.
    let mut drivers = JoinSet::new();
    drivers.spawn(driver);

    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let text = |name| {
        let value = response.headers().get(name);
        let text = value.and_then(|value| value.to_str().ok());
        text.unwrap_or_default().to_owned()
    };
    let content_type = text(header::CONTENT_TYPE);
    let date = text(header::DATE);
    let etag = text(header::ETAG);
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
        .collect()
        .await
        .map_err(|error| match error.downcast::<LengthLimitError>() {
            Ok(_) => TransportError::TooLarge,
            Err(error) => TransportError::Broken(error),
        })?
        .to_bytes();
    Ok(Answer {
        status,
        content_type,
        date,
        etag,
        body,
    })
}

fn broken(error: hyper::Error) -> TransportError {
    if error.is_parse() {
        TransportError::NotHttp(error)
    } else {
        TransportError::Broken(Box::new(error))
    }
}
