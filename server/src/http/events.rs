//! `GET /v1/leases/{id}/events`: what happened and happens to a lease, as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName};
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::stream::{Stream, unfold};
use remote_docker_api::{EventKind, LeaseEvent, LeaseId};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};

use super::ApiState;
use super::error::ApiError;
use super::own::OwnLease;
use crate::lease::LeasePhase;
use crate::store::{LeaseNews, MOST_EVENTS};

/// How many clients may follow events at a time. Each holds one of the server's connections.
pub const MOST_STREAMS: usize = 256;
/// How often a silent stream says that it is still there: proxies cut what says nothing for long.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Looks at the database are at least so far apart, however much happens to the lease.
const PACE: Duration = Duration::from_millis(200);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Where a stream stands.
struct Follower {
    api: Arc<ApiState>,
    lease: LeaseId,
    /// The last event that was read.
    after: u64,
    /// Read, but not sent yet.
    read: VecDeque<LeaseEvent>,
    news: LeaseNews,
    /// When the next look may be had.
    next_look: Instant,
    /// There may be more to read at once.
    more: bool,
    /// Nothing comes after what is there.
    over: bool,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn events(
    State(api): State<Arc<ApiState>>,
    OwnLease(row): OwnLease,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let place = api.streams.clone().try_acquire_owned();
    let place = place.map_err(|_| ApiError::TooManyStreams { most: MOST_STREAMS })?;
    let after = last_event_id(&headers, row.id)?;
    // Before the first look, so that no change falls between a look and the wait for the next.
    let news = api.store.news_of(row.id);
    // The last that was seen is read once more: it must be there.
    let mut read = VecDeque::from(api.store.events(row.id, after.saturating_sub(1)).await?);
    let more = read.len() == MOST_EVENTS;
    if after > 0 && read.pop_front().is_none_or(|event| event.seq != after) {
        return Err(ApiError::InvalidLastEventId(row.id));
    }
    let mut follower = Follower {
        lease: row.id,
        after,
        read: VecDeque::new(),
        news,
        next_look: Instant::now() + PACE,
        more,
        // It had ended before the events were read, so they are all there are.
        over: matches!(row.phase, LeasePhase::Ended { .. }),
        api,
        _place: place,
    };
    follower.take_in(read);
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("still there");
    let stream = unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok(on_the_wire(event, follower.api.clock.ahead())), follower))
    });
    Ok(Sse::new(stream).keep_alive(keep_alive))
}

impl Follower {
    fn take_in(&mut self, read: VecDeque<LeaseEvent>) {
        if let Some(last) = read.back() {
            self.after = last.seq;
            self.over |= last.kind == EventKind::Ended;
        }
        self.read = read;
    }

    /// The next event; `None` when there is no further one to wait for.
    async fn next(&mut self) -> Option<LeaseEvent> {
        loop {
            if let Some(event) = self.read.pop_front() {
                return Some(event);
            }
            if self.over && !self.more {
                return None;
            }
            let change = async {
                if !self.more {
                    sleep_until(self.next_look).await;
                    self.news.changed().await;
                }
            };
            let stopping = self.api.stopping.clone();
            tokio::select! {
                biased;
                () = stopping.cancelled() => return None,
                () = change => {}
            }
            self.next_look = Instant::now() + PACE;
            self.api.metrics.looked_for_events();
            match self.api.store.events(self.lease, self.after).await {
                Ok(read) => {
                    self.more = read.len() == MOST_EVENTS;
                    self.take_in(read.into());
                }
                Err(error) => {
                    // The client comes back and goes on where it was.
                    let lease = self.lease;
                    tracing::error!(%lease, "the events of lease {lease} cannot be read: {error}");
                    return None;
                }
            }
        }
    }
}

fn last_event_id(headers: &HeaderMap, lease: LeaseId) -> Result<u64, ApiError> {
    let Some(value) = headers.get(LAST_EVENT_ID) else {
        return Ok(0);
    };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.ok_or(ApiError::InvalidLastEventId(lease))
}

/// Clients are told when it happened in wall time, which is `ahead` of that of the rows.
fn on_the_wire(mut event: LeaseEvent, ahead: time::Duration) -> Event {
    event.at = event.at.saturating_add(ahead);
    // Numbers, words and texts always have a JSON form, and it is on one line.
    let data = serde_json::to_string(&event).unwrap_or_default();
    Event::default()
        .id(event.seq.to_string())
        .event(event.kind.as_str())
        .data(data)
}
