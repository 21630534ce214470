//! The server's end of the channel, with a guest that says whatever it likes.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use guest_protocol::{Event, FromGuest, Logs, MAX_LOG_TAIL_BYTES, encode};
use remote_dockerd::guest::{
    GuestError, Link, Occurrence, disk_shortage, memory_shortage, printable, ssh_host_key,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

use super::frames::{WORDS, activation, replies};
use super::{Target, outcome};

/// Never reached: the stream ends before.
const LIMIT: Duration = Duration::from_secs(1000);

/// What a guest may send from one answer to the next, as the server has it, and one read more.
const MOST_UNASKED: usize = 512 * 1024 + 8192;

pub(super) fn target() -> Target {
    Target {
        name: "channel",
        what: "the server's end of a guest's channel, with all that it asks for",
        words: WORDS,
        most_bytes: 1 << 20,
        most_memory: 16 << 20,
        seeds,
        run,
    }
}

/// A good answer to each question, and a long conversation.
fn seeds() -> Vec<Vec<u8>> {
    let first = |reply: FromGuest| match reply {
        FromGuest::Reply { result, .. } => FromGuest::Reply { id: 65_536, result },
        event => event,
    };
    let questions = [7_u8, 3, 5, 4, 1, 2, 4, 0, 4, 6, 6, 6, 6];
    let mut seeds: Vec<Vec<u8>> = questions
        .into_iter()
        .zip(replies())
        .filter_map(|(question, reply)| {
            let line = encode(&first(reply)).ok()?;
            Some([&[question, 0, 9], line.as_slice()].concat())
        })
        .collect();
    let all: Vec<Vec<u8>> = replies().iter().flat_map(encode).collect();
    seeds.push([&[0o30, 0o21, 200], all.concat().as_slice()].concat());
    seeds
}

thread_local! {
    static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) };
}

fn run(input: &[u8]) -> u64 {
    RUNTIME.with_borrow_mut(|runtime| {
        let runtime = runtime.get_or_insert_with(|| {
            let built = Builder::new_current_thread().enable_time().build();
            built.expect("a runtime")
        });
        runtime.block_on(converse(input))
    })
}

/// The first two bytes say what is asked for, the third how the rest is cut into reads.
async fn converse(input: &[u8]) -> u64 {
    let (asked, rest) = input.split_at(input.len().min(2));
    let (&cut, bytes) = rest.split_first().unwrap_or((&0, &[]));
    let read = Arc::new(AtomicUsize::new(0));
    let guest = Guest {
        bytes: bytes.to_vec(),
        at: 0,
        cut: usize::from(cut) * 32 + 1,
        read: Arc::clone(&read),
    };
    // The ids of requests begin at 65536, which hostile guests may know.
    let mut link = Link::new(Box::new(guest), 1);
    let mut kinds = String::new();
    let mut before = 0;
    for question in asked.iter().flat_map(|byte| [byte & 7, byte >> 3 & 7]) {
        let (kind, error) = ask(&mut link, question).await;
        kinds.push_str(kind);
        let now = read.load(Ordering::Relaxed);
        assert!(
            now - before <= MOST_UNASKED,
            "{} bytes were listened to",
            now - before
        );
        before = now;
        if let Some(error) = error {
            harmless(&error.to_string());
            let mut cause = std::error::Error::source(&error);
            while let Some(source) = cause {
                harmless(&source.to_string());
                cause = source.source();
            }
            kinds.push_str(word(&error));
            // As the server does.
            if error.is_foul() || !error.channel_holds() {
                break;
            }
        }
    }
    outcome(&kinds)
}

async fn ask(link: &mut Link, question: u8) -> (&'static str, Option<GuestError>) {
    match question {
        0 => ("h", link.hello(LIMIT).await.err()),
        1 => ("s", link.status(LIMIT).await.err()),
        2 => match link.logs(700, LIMIT).await {
            Ok(Logs {
                dockerd,
                containerd,
                kernel,
            }) => {
                for log in [dockerd, containerd, kernel] {
                    assert!(log.len() <= 700_usize.min(MAX_LOG_TAIL_BYTES));
                    assert!(!log.contains(['\u{1b}', '\r', '\u{202e}', '\0']), "{log:?}");
                }
                ("l", None)
            }
            Err(error) => ("l", Some(error)),
        },
        3 => ("q", link.quiesce(LIMIT).await.err()),
        4 => ("n", link.notice("hello".into(), LIMIT).await.err()),
        5 => match link.activate(activation(), LIMIT).await {
            Ok(found) => {
                if let Some(key) = ssh_host_key(&found) {
                    assert_eq!(printable(&key), key);
                    assert_eq!(key.split(' ').count(), 2);
                }
                ("a", None)
            }
            Err(error) => ("a", Some(error)),
        },
        6 => match link.next().await {
            Ok(Occurrence::Event(event)) => {
                match event {
                    Event::Disk(usage) => harmless(&disk_shortage(&usage).1),
                    Event::OutOfMemory(killed) => harmless(&memory_shortage(&killed).1),
                    Event::Phase(_) | Event::DaemonExited { .. } => {}
                }
                ("e", None)
            }
            Ok(Occurrence::Closed) => ("c", Some(GuestError::Closed)),
            Err(error) => ("e", Some(error)),
        },
        _ => (
            "r",
            link.wait_ready(LIMIT, &guest_protocol::Site::default())
                .await
                .err(),
        ),
    }
}

/// What is told of a guest goes to logs and terminals.
fn harmless(text: &str) {
    assert!(text.len() < 1000, "{} bytes of a guest's words", text.len());
    assert!(
        !text.contains(['\u{1b}', '\n', '\r', '\u{202e}', '\0']),
        "{text:?}"
    );
}

fn word(error: &GuestError) -> &'static str {
    match error {
        GuestError::Closed => "-closed",
        GuestError::Channel(_) => "-channel",
        GuestError::Frame(_) => "-frame",
        GuestError::Malformed => "-malformed",
        GuestError::Flood { .. } => "-flood",
        GuestError::Timeout { .. } => "-timeout",
        GuestError::Refused { .. } => "-refused",
        GuestError::WrongReply { .. } => "-wrong",
        GuestError::Version { .. } => "-version",
        GuestError::NoSite => "-site",
        GuestError::WrongPhase { .. } => "-phase",
        GuestError::Identity(_) => "-identity",
    }
}

/// A guest that has said all before it was asked, and is gone then.
struct Guest {
    bytes: Vec<u8>,
    at: usize,
    cut: usize,
    read: Arc<AtomicUsize>,
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let end = (self.at + self.cut.min(buffer.remaining())).min(self.bytes.len());
        buffer.put_slice(&self.bytes[self.at..end]);
        self.read.store(end, Ordering::Relaxed);
        self.at = end;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buffer.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
