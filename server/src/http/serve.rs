//! Connections: accepted up to a number, given a time to say what they want and to take the answer,
//! and ended in good order.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::places::{Limits, Place, Places};
use super::write_deadline::WriteDeadline;

/// Connections at a time. While all have shown the token, more wait in the listener's queue. Each
/// waiting lease holds one. Behind a proxy all of them are of one peer.
const LIMITS: Limits = Limits {
    all: 1024,
    per_peer: 896,
};
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

/// Serves until `stop` is cancelled; then takes no new connections, lets requests under way finish
/// for at most `grace`, and cuts off the rest.
pub async fn serve(listener: TcpListener, api: Router, stop: CancellationToken, grace: Duration) {
    serve_within(LIMITS, listener, api, stop, grace).await;
}

/// [`serve`] with other limits, for tests.
pub(super) async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    api: Router,
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
                connections.spawn(attend(stream, place, api.clone(), stop.clone()));
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
async fn attend(stream: TcpStream, place: Place, api: Router, stop: CancellationToken) {
    let stream = WriteDeadline::new(stream, ANSWER_TIMEOUT);
    let api = api.layer(Extension(place.trust()));
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
    tokio::select! {
        biased;
        () = place.cut.cancelled() => {
            tracing::debug!("an API connection gives its place to another one");
        }
        ended = served => if let Err(error) = ended {
            // Clients that hang up or talk nonsense: theirs to notice.
            tracing::debug!("an API connection ended early: {error}");
        }
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
