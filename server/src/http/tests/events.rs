//! Events as they are followed.

use axum::body::BodyDataStream;
use futures_util::StreamExt;
use remote_docker_api::{EndReason, EventKind, LeaseEvent};

use super::*;
use crate::store::MOST_EVENTS;

/// The events of one answer.
struct Following {
    body: BodyDataStream,
    text: String,
}

impl Fixture {
    async fn events(&self, id: LeaseId, last: Option<&str>) -> axum::response::Response {
        let path = format!("/v1/leases/{id}/events");
        let mut request = with_token(Method::GET, &path);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let request = request.body(Body::empty()).unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn follow(&self, id: LeaseId, last: Option<&str>) -> Following {
        let response = self.events(id, last).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Following {
            body: response.into_body().into_data_stream(),
            text: String::new(),
        }
    }

    async fn refused(&self, id: LeaseId, last: &str) -> Problem {
        let (_, body) = self.events(id, Some(last)).await.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    async fn wish_end(&self, id: LeaseId) {
        let wish = self.api.store.wish_end(id, EndReason::Released);
        wish.await.unwrap();
    }
}

impl Following {
    /// The next block, up to its empty line; `None` at the end.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(block);
            }
            let chunk = tokio::time::timeout(FAR, self.body.next()).await;
            let chunk = chunk.expect("the stream says nothing and does not end")?;
            self.text += str::from_utf8(&chunk.unwrap()).unwrap();
        }
    }

    async fn event(&mut self) -> Option<LeaseEvent> {
        let block = self.block().await?;
        let field = |name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {block}"))
        };
        let event: LeaseEvent = serde_json::from_str(field("data: ")).unwrap();
        assert_eq!(field("id: "), event.seq.to_string());
        assert_eq!(field("event: "), event.kind.as_str());
        Some(event)
    }

    async fn kinds(mut self) -> Vec<EventKind> {
        let mut kinds = Vec::new();
        while let Some(event) = self.event().await {
            kinds.push(event.kind);
        }
        kinds
    }
}

#[tokio::test]
async fn a_life_is_told_while_it_happens_and_again_afterwards() {
    use EventKind::*;
    let fixture = Fixture::new().await;
    let lease: Lease = fixture.post(order(json!({ "wait_s": 0 }))).await.json();
    let mut live = fixture.follow(lease.id, None).await;
    let first = live.event().await.unwrap();
    assert_eq!((first.seq, first.kind, first.at), (1, Queued, NOW));
    // It is told as the host's clock has it.
    let hour = time::Duration::HOUR;
    fixture.clock.set_ahead(hour);
    let mut other = fixture.follow(lease.id, None).await;
    assert_eq!(other.event().await.unwrap().at, NOW + hour);
    drop(other);
    fixture.clock.set_ahead(time::Duration::ZERO);
    fixture.grant(lease.id).await;
    assert_eq!(live.event().await.unwrap().kind, Ready);
    fixture.wish_end(lease.id).await;
    for _ in 0..3 {
        reconciler::reconcile(&fixture.api.store).await;
    }
    let ending = live.event().await.unwrap();
    assert_eq!(
        (ending.kind, ending.detail.as_deref()),
        (Ending, Some("released"))
    );
    assert_eq!(live.kinds().await, [Ended]);

    let whole = fixture.follow(lease.id, None).await;
    assert_eq!(whole.kinds().await, [Queued, Ready, Ending, Ended]);
    let rest = fixture.follow(lease.id, Some("2")).await;
    assert_eq!(rest.kinds().await, [Ending, Ended]);
    // Who has seen it all is not kept waiting.
    let nothing = fixture.follow(lease.id, Some("4")).await;
    assert_eq!(nothing.kinds().await, []);
}

#[tokio::test]
async fn an_event_that_never_was_is_refused() {
    let fixture = Fixture::new().await;
    let lease: Lease = fixture.post(order(json!({ "wait_s": 0 }))).await.json();
    for last in ["2", "18446744073709551615", "-1", "x", "", "1.0"] {
        let problem = fixture.refused(lease.id, last).await;
        assert_eq!(problem.code, ErrorCode::InvalidLastEventId, "{last}");
        assert_eq!(problem.status, 400);
    }
    assert_eq!(fixture.api.streams.available_permits(), MOST_STREAMS);
}

#[tokio::test]
async fn streams_end_with_the_server_and_have_an_end_in_number() {
    let fixture = Fixture::new().await;
    let few = Arc::new(Semaphore::new(2));
    let fixture = fixture.with(|api| api.streams = few.clone());
    let lease: Lease = fixture.post(order(json!({ "wait_s": 0 }))).await.json();
    let mut first = fixture.follow(lease.id, None).await;
    let second = fixture.follow(lease.id, None).await;
    let path = format!("/v1/leases/{}/events", lease.id);
    let answer = fixture.get(&path).await;
    answer.problem(503, ErrorCode::TooManyStreams);
    // Whoever goes away makes room.
    drop(second);
    let third = fixture.follow(lease.id, None).await;
    first.event().await.unwrap();
    fixture.api.stopping.cancel();
    assert_eq!(first.kinds().await, []);
    assert_eq!(third.kinds().await, [EventKind::Queued]);
    assert_eq!(few.available_permits(), 2);
}

// The clock is stopped, so that 15 s are over as soon as nothing else moves.
#[tokio::test(flavor = "current_thread")]
async fn a_silent_stream_says_that_it_is_there() {
    let fixture = Fixture::new().await;
    let lease: Lease = fixture.post(order(json!({ "wait_s": 0 }))).await.json();
    let mut following = fixture.follow(lease.id, None).await;
    following.event().await.unwrap();
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    assert_eq!(following.block().await.unwrap(), ": still there");
    assert_eq!(begun.elapsed().as_secs(), 15);
}

#[tokio::test]
async fn what_happens_to_others_costs_a_stream_few_looks() {
    let fixture = Fixture::new().await;
    let lease: Lease = fixture.post(order(json!({ "wait_s": 0 }))).await.json();
    let mut following = fixture.follow(lease.id, None).await;
    following.event().await.unwrap();
    let other = fixture.active(json!({ "keepalive_s": 60 })).await;
    let begun = std::time::Instant::now();
    let watching = tokio::spawn(async move { following.event().await });
    for _ in 0..300 {
        let beat = fixture.api.store.heartbeat(other.id, NOW).await;
        beat.unwrap();
    }
    let most = begun.elapsed().as_millis() / 200 + 1;
    let looks = fixture.api.metrics.event_looks();
    assert!(u128::from(looks) <= most, "{looks} looks, at most {most}");
    fixture.grant(lease.id).await;
    let told = watching.await.unwrap().unwrap();
    assert_eq!(told.kind, EventKind::Ready);
    assert!(fixture.api.metrics.event_looks() >= 1);
}

#[tokio::test]
async fn a_long_history_is_read_piece_by_piece_and_told_as_one() {
    let fixture = Fixture::new().await;
    let lease: Lease = fixture.post(order(json!({ "wait_s": 0 }))).await.json();
    let much = vec![(lease.id, EventKind::Cloning); 2 * MOST_EVENTS];
    let store = &fixture.api.store;
    store
        .note_progress(&much, fixture.api.clock.now())
        .await
        .unwrap();
    assert_eq!(store.events(lease.id, 1).await.unwrap().len(), MOST_EVENTS);
    let last = 2 * MOST_EVENTS as u64 + 1;
    for (after, first) in [(None, 1), (Some("1"), 2)] {
        let mut following = fixture.follow(lease.id, after).await;
        for seq in first..=last {
            assert_eq!(following.event().await.unwrap().seq, seq);
        }
    }
}
