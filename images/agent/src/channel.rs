//! The server's requests, one after another: bytes to frames, frames to calls, answers back.
//!
//! The server may die in the middle of a frame and another one come. Each side sends an empty line
//! first then, which makes one bad line of what was left half written.

use std::convert::Infallible;
use std::io;
use std::time::Instant;

use guest_protocol::{
    Call, Event, Fault, FaultCode, FrameError, FromGuest, LineDecoder, Reply, encode,
};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::console::say;

/// What came from the host.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Bytes(usize),
    /// Nobody is connected now.
    HostGone,
}

/// What became of bytes for the host.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    All,
    /// Nobody is connected, so they, or the rest of them, are lost.
    HostGone,
}

/// A stream to the host that has no end: hosts come and go.
pub(crate) trait Link {
    /// Waits for bytes. May be dropped while it waits.
    async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received>;
    /// After [`Received::HostGone`]: waits until somebody is connected. May be dropped as well.
    async fn host_back(&mut self) -> io::Result<()>;
    /// Sends all of it.
    async fn send(&mut self, bytes: &[u8]) -> io::Result<Sent>;
}

/// Who answers.
pub(crate) trait Service {
    /// Does `call`, whose frame was read at `read_at`.
    async fn answer(&mut self, call: Call, read_at: Instant) -> Result<Reply, Fault>;
    /// The answer to a call went out (or its asker had gone).
    fn answered(&mut self) {}
}

/// A request whose call may be one that this version does not know.
#[derive(Deserialize)]
struct AnyRequest {
    id: u64,
    call: serde_json::Value,
}

/// Serves for ever.
///
/// # Errors
/// The link's, which is then of no further use.
pub(crate) async fn serve(
    link: &mut impl Link,
    service: &mut impl Service,
    events: &mut mpsc::Receiver<Event>,
) -> io::Result<Infallible> {
    let mut buffer = vec![0; 4096];
    let mut read_at = Instant::now();
    // Both outlive a host. What comes from a host may be here before the news that it came, so a
    // change of hosts is no reason to forget bytes; and an answer that found nobody may be one for
    // the next host. If it is not, its id says so.
    let mut decoder = LineDecoder::default();
    let mut unsent: Option<Vec<u8>> = None;
    loop {
        link.host_back().await?;
        let mut host = link.send(b"\n").await?;
        while host == Sent::All {
            if let Some(line) = &unsent {
                host = link.send(line).await?;
                if host == Sent::All {
                    unsent = None;
                    service.answered();
                }
                continue;
            }
            if let Some(answer) = next_answer(&mut decoder, service, read_at).await {
                unsent = line(&answer);
                continue;
            }
            tokio::select! {
                Some(event) = events.recv() => unsent = line(&FromGuest::Event(event)),
                received = link.receive(&mut buffer) => match received? {
                    Received::HostGone => host = Sent::HostGone,
                    Received::Bytes(count) => {
                        read_at = Instant::now();
                        if let Err(error) = decoder.feed(&buffer[..count]) {
                            // What comes next is read as the rest of that line, up to its end.
                            decoder = LineDecoder::default();
                            unsent = line(&refusal(0, &error.to_string()));
                        }
                    }
                },
            }
        }
    }
}

/// The answer to the next frame, if there is a whole one.
async fn next_answer(
    decoder: &mut LineDecoder,
    service: &mut impl Service,
    read_at: Instant,
) -> Option<FromGuest> {
    match decoder.next_frame::<AnyRequest>() {
        Ok(None) => None,
        Ok(Some(AnyRequest { id, call })) => match serde_json::from_value::<Call>(call) {
            Ok(call) => Some(FromGuest::Reply {
                id,
                result: service.answer(call, read_at).await,
            }),
            Err(_) => Some(refusal(
                id,
                "this version of the agent does not know such a call",
            )),
        },
        // There is no id to answer to; a server drops replies that it did not ask for.
        Err(error @ (FrameError::Malformed(_) | FrameError::TooLong)) => {
            Some(refusal(0, &error.to_string()))
        }
    }
}

fn refusal(id: u64, why: &str) -> FromGuest {
    let fault = Fault {
        code: FaultCode::Unsupported,
        message: why.to_owned(),
    };
    FromGuest::Reply {
        id,
        result: Err(fault),
    }
}

fn line(message: &FromGuest) -> Option<Vec<u8>> {
    encode(message)
        // Only one with an absurdly long text in it; its asker will run into a deadline.
        .inspect_err(|error| say!("a message is not sent: {error}"))
        .ok()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use guest_protocol::{Hello, MAX_FRAME_BYTES, Phase, VERSION};

    use super::*;

    /// A stream in memory: what hosts send, one script step after another, and what they get.
    #[derive(Default)]
    struct Script {
        steps: VecDeque<Step>,
        present: bool,
        sent: Vec<u8>,
    }

    enum Step {
        Come,
        Say(Vec<u8>),
        Go,
        /// Wait until this many bytes were sent to the host, which then goes on.
        Hear(usize),
    }

    impl Link for Script {
        async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
            match self.steps.pop_front() {
                Some(Step::Say(bytes)) => {
                    let (now, later) = bytes.split_at(bytes.len().min(buffer.len()));
                    buffer[..now.len()].copy_from_slice(now);
                    if !later.is_empty() {
                        self.steps.push_front(Step::Say(later.to_vec()));
                    }
                    Ok(Received::Bytes(now.len()))
                }
                Some(Step::Go) => {
                    self.present = false;
                    Ok(Received::HostGone)
                }
                Some(Step::Hear(count)) if self.sent.len() < count => {
                    self.steps.push_front(Step::Hear(count));
                    std::future::pending().await
                }
                Some(Step::Hear(_)) => Box::pin(self.receive(buffer)).await,
                Some(Step::Come) => panic!("a host comes while there is one"),
                None => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }

        async fn host_back(&mut self) -> io::Result<()> {
            if !self.present {
                match self.steps.pop_front() {
                    Some(Step::Come) => self.present = true,
                    _ => return Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
            Ok(())
        }

        async fn send(&mut self, bytes: &[u8]) -> io::Result<Sent> {
            if matches!(self.steps.front(), Some(Step::Go)) {
                self.steps.pop_front();
                self.present = false;
                // It took half of it along.
                self.sent.extend_from_slice(&bytes[..bytes.len() / 2]);
                return Ok(Sent::HostGone);
            }
            self.sent.extend_from_slice(bytes);
            Ok(Sent::All)
        }
    }

    /// Says hello, and fails at everything else.
    struct Greeter {
        answered: u32,
    }

    impl Service for Greeter {
        async fn answer(&mut self, call: Call, _: Instant) -> Result<Reply, Fault> {
            match call {
                Call::Hello { .. } => Ok(hello()),
                _ => Err(Fault {
                    code: FaultCode::Failed,
                    message: "no".into(),
                }),
            }
        }

        fn answered(&mut self) {
            self.answered += 1;
        }
    }

    fn hello() -> Reply {
        Reply::Hello(Hello {
            version: VERSION,
            phase: Phase::Booting,
            boot_id: "b".into(),
        })
    }

    fn hello_request(id: u64) -> Vec<u8> {
        encode(&guest_protocol::Request {
            id,
            call: Call::Hello { version: VERSION },
        })
        .unwrap()
    }

    /// Plays the script, and reads what was sent as a host reads it.
    async fn play(steps: Vec<Step>, events: Vec<Event>) -> (Vec<FromGuest>, usize) {
        let (tell, mut outbox) = mpsc::channel(8);
        for event in events {
            tell.try_send(event).unwrap();
        }
        let mut link = Script {
            steps: steps.into(),
            ..Script::default()
        };
        let mut service = Greeter { answered: 0 };
        let playing = serve(&mut link, &mut service, &mut outbox);
        let end = tokio::time::timeout(Duration::from_secs(10), playing)
            .await
            .expect("it hangs");
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let mut decoder = LineDecoder::default();
        let (mut messages, mut bad) = (Vec::new(), 0);
        for part in link.sent.chunks(1000) {
            decoder.feed(part).unwrap();
            loop {
                match decoder.next_frame() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(_) => bad += 1,
                }
            }
        }
        (messages, bad)
    }

    fn reply(id: u64) -> FromGuest {
        FromGuest::Reply {
            id,
            result: Ok(hello()),
        }
    }

    fn code(message: &FromGuest) -> (u64, FaultCode) {
        match message {
            FromGuest::Reply {
                id,
                result: Err(fault),
            } => (*id, fault.code),
            other => panic!("no fault: {other:?}"),
        }
    }

    #[tokio::test]
    async fn bad_requests_are_faults_and_the_next_good_one_is_answered() {
        let mut steps = vec![Step::Come];
        let bad: [&[u8]; 5] = [
            b"garbage\n",
            b"{\"id\":1}\n",
            b"{\"id\":2,\"call\":\"reformat\"}\n",
            b"{\"id\":3,\"call\":{\"activate\":{}}}\n",
            b"\xff\xfe\n",
        ];
        steps.extend(bad.map(|line| Step::Say(line.to_vec())));
        steps.push(Step::Say(vec![b'x'; MAX_FRAME_BYTES + 5000]));
        steps.push(Step::Say([&b"\n"[..], &hello_request(9)].concat()));
        let (messages, _) = play(steps, vec![]).await;
        let (last, faults) = messages.split_last().unwrap();
        assert_eq!(*last, reply(9));
        let faults: Vec<_> = faults.iter().map(code).collect();
        let ids: Vec<u64> = faults.iter().map(|(id, _)| *id).collect();
        assert_eq!(
            ids,
            [0, 0, 2, 3, 0, 0, 0],
            "the last one is the long line's end"
        );
        assert!(
            faults
                .iter()
                .all(|(_, code)| *code == FaultCode::Unsupported)
        );
    }

    #[tokio::test]
    async fn a_server_that_dies_in_a_frame_costs_its_successor_nothing() {
        let half = &hello_request(1)[..10];
        let successor = [&b"\n"[..], &hello_request(2)].concat();
        let steps = vec![
            Step::Come,
            Step::Say(half.to_vec()),
            Step::Go,
            Step::Come,
            Step::Say(successor),
        ];
        let (messages, bad) = play(steps, vec![]).await;
        assert_eq!((messages.len(), bad), (2, 0));
        assert_eq!(code(&messages[0]).0, 0);
        assert_eq!(messages[1], reply(2));
    }

    /// A host that comes right after another one is heard before the news that the first one went.
    #[tokio::test]
    async fn an_answer_that_finds_nobody_goes_whole_to_the_next_host() {
        let steps = vec![
            Step::Come,
            Step::Say(hello_request(1)),
            Step::Go,
            Step::Come,
            Step::Say(hello_request(2)),
        ];
        let (messages, bad) = play(steps, vec![]).await;
        assert_eq!(messages, vec![reply(1), reply(2)]);
        assert_eq!(bad, 1, "the half that the first host took along");
    }

    #[tokio::test]
    async fn requests_of_a_host_that_goes_before_all_are_answered_are_answered_to_the_next() {
        let both = [hello_request(1), hello_request(2)].concat();
        let steps = vec![Step::Come, Step::Say(both), Step::Go, Step::Come];
        let (messages, _) = play(steps, vec![]).await;
        assert_eq!(messages, vec![reply(1), reply(2)]);
    }

    #[tokio::test]
    async fn events_go_out_while_nothing_is_asked() {
        let event = Event::Phase(Phase::Ready);
        let steps = vec![Step::Come, Step::Hear(10), Step::Say(hello_request(5))];
        let (messages, _) = play(steps, vec![event.clone()]).await;
        assert_eq!(messages, vec![FromGuest::Event(event), reply(5)]);
    }

    #[tokio::test]
    async fn several_requests_in_one_read_are_all_answered_in_order() {
        let both = [hello_request(1), hello_request(2)].concat();
        let (messages, _) = play(vec![Step::Come, Step::Say(both)], vec![]).await;
        assert_eq!(messages, vec![reply(1), reply(2)]);
    }
}
