//! Connections: accepted up to a number, given a time to agree on TLS, to say what they want and to take the
//! answer, and ended in good order. One that has not agreed on TLS yet holds a place like every other
//! without a token, and is among the first to lose it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::places::{Limits, Place, Places};
use super::write_deadline::WriteDeadline;

/// Connections at a time. While all have shown the token, more wait in the listener's queue. Each
/// waiting lease holds one. Behind a proxy all of them are of one peer.
const LIMITS: Limits = Limits {
    all: 1024,
    per_peer: 896,
};
/// How long a connection may take to agree on TLS, from its first byte to its last.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The first byte of every connection that begins with TLS: a record of a handshake. No request of HTTP
/// begins with it.
const TLS_HANDSHAKE: u8 = 22;
/// How long a connection may take to send the head of a request, and may idle between two.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to read an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may be used for new requests. One that is under way then is finished.
const LIFE: Duration = Duration::from_secs(300);
/// How large the head of a request may be, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// How long the server waits after it could not accept, for example because it is out of file
/// descriptors. Otherwise it would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What connections are let in to.
#[derive(Clone)]
pub struct Door {
    api: Router,
    /// With TLS: what it begins with, and who answers those that begin without it.
    tls: Option<(TlsAcceptor, Router)>,
}

impl Door {
    /// Plain HTTP.
    #[must_use]
    pub fn plain(api: Router) -> Self {
        Self { api, tls: None }
    }

    /// HTTP over TLS; `refusal` answers requests of plain HTTP.
    #[must_use]
    pub fn tls(api: Router, config: Arc<ServerConfig>, refusal: Router) -> Self {
        Self {
            api,
            tls: Some((config.into(), refusal)),
        }
    }
}

/// Serves until `stop` is cancelled; then takes no new connections, lets requests under way finish
/// for at most `grace`, and cuts off the rest.
pub async fn serve(listener: TcpListener, door: Door, stop: CancellationToken, grace: Duration) {
    serve_within(LIMITS, listener, door, stop, grace).await;
}

/// [`serve`] with other limits, for tests.
pub(super) async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    door: Door,
    stop: CancellationToken,
    grace: Duration,
) {
    let places = Places::new(limits);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            (stream, place) = accept(&listener, &places) => {
                connections.spawn(attend(stream, place, door.clone(), stop.clone()));
            }
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, ended).await.is_err() {
        tracing::warn!(
            grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
            "some API requests were still under way and are cut off"
        );
    }
    connections.shutdown().await;
}

/// One connection from its beginning to its end.
async fn attend(stream: TcpStream, place: Place, door: Door, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = place.cut.cancelled() => {
            tracing::debug!("an API connection gives its place to another one");
        }
        () = let_in(stream, &place, door, stop) => {}
    }
}

async fn let_in(stream: TcpStream, place: &Place, door: Door, stop: CancellationToken) {
    let api = door.api.layer(Extension(place.trust()));
    let Some((acceptor, refusal)) = door.tls else {
        return converse(stream, api, stop).await;
    };
    let agreed = stop.run_until_cancelled(tokio::time::timeout(HANDSHAKE_TIMEOUT, async {
        let mut first = [0];
        stream.peek(&mut first).await?;
        if first != [TLS_HANDSHAKE] {
            return Ok(Err(stream));
        }
        acceptor.accept(stream).await.map(Ok)
    }));
    match agreed.await {
        Some(Ok(Ok(Ok(stream)))) => converse(stream, api, stop).await,
        Some(Ok(Ok(Err(stream)))) => converse(stream, refusal, stop).await,
        // Theirs to notice, as below.
        Some(Ok(Err(error))) => tracing::debug!("an API connection agrees on no TLS: {error}"),
        Some(Err(_)) => tracing::debug!("an API connection took too long to agree on TLS"),
        None => {}
    }
}

/// Answers the requests of one connection.
async fn converse<S>(stream: S, api: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = WriteDeadline::new(stream, ANSWER_TIMEOUT);
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(api))
    );
    let served = async {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended,
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LIFE) => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    if let Err(error) = served.await {
        // Clients that hang up or talk nonsense: theirs to notice.
        tracing::debug!("an API connection ended early: {error}");
    }
}

async fn accept(listener: &TcpListener, places: &Arc<Places>) -> (TcpStream, Place) {
    let mut failing = false;
    loop {
        places.room().await;
        match listener.accept().await {
            Ok((stream, peer)) => {
                failing = false;
                let Some(place) = places.enter(peer.ip()) else {
                    tracing::debug!("{} has too many API connections", peer.ip());
                    continue;
                };
                // Answers are small; waiting to fill a packet only delays them.
                let _ = stream.set_nodelay(true);
                return (stream, place);
            }
            Err(error) => {
                if !failing {
                    tracing::warn!("API connections cannot be accepted at the moment: {error}");
                }
                failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
