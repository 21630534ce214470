//! Bytes of the channel between server and agent, cut into frames: both directions.

use std::fmt::Debug;

use guest_protocol::{
    Activated, Activation, Activity, Call, DiskUse, Event, Fault, FaultCode, FrameError, FromGuest,
    Hello, LineDecoder, Logs, MAX_FRAME_BYTES, OutOfMemory, Phase, Reply, Request, Scarce, Status,
    VERSION, Whose, encode,
};
use serde_json::Value;

use super::{Target, outcome};

/// What the language is made of, in both directions.
pub(super) const WORDS: &[&[u8]] = &[
    b"\n",
    b"{\"reply\":{\"id\":65536,\"result\":{\"Ok\":\"quiesced\"}}}\n",
    b"{\"event\":{\"phase\":\"ready\"}}\n",
    b"{\"event\":{\"daemon_exited\":{\"daemon\":\"dockerd\",\"status\":\"exit status 1\"}}}\n",
    b"{\"event\":{\"out_of_memory\":{\"process\":\"a\",\"whose\":\"machine\",\"limit_kib\":null}}}\n",
    b"\"Err\":{\"code\":\"failed\",\"message\":\"no\"}",
    b"\"result\"",
    b"\"id\":65537",
    b"\"hello\"",
    b"\"activated\"",
    b"\"status\"",
    b"\"logs\"",
    b"null",
    b"18446744073709551616",
    b"-1",
    b"1e999",
    b"\\ud800",
    b"\\u202e",
    b"\xff\xfe",
    b"[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":{\"a\":",
];

const MOST_BYTES: usize = 4 * MAX_FRAME_BYTES;

pub(super) fn from_guest() -> Target {
    Target {
        name: "frames-from-guest",
        what: "bytes that a guest sends, cut into frames",
        words: WORDS,
        most_bytes: MOST_BYTES,
        most_memory: 16 << 20,
        seeds: || seeds(&replies()),
        run: |input| check::<FromGuest>(input),
    }
}

pub(super) fn to_guest() -> Target {
    Target {
        name: "frames-to-guest",
        what: "bytes that the agent receives, cut into frames",
        words: WORDS,
        most_bytes: MOST_BYTES,
        most_memory: 16 << 20,
        seeds: || seeds(&requests()),
        run: |input| check::<Request>(input),
    }
}

/// Each message by itself and all in a row, behind the byte that says how they are cut.
fn seeds<T: serde::Serialize>(messages: &[T]) -> Vec<Vec<u8>> {
    let lines: Vec<Vec<u8>> = messages.iter().flat_map(encode).collect();
    let mut seeds: Vec<Vec<u8>> = lines
        .iter()
        .map(|line| [b"\x20", line.as_slice()].concat())
        .collect();
    seeds.push([b"\xff", lines.concat().as_slice()].concat());
    seeds
}

/// Every answer, to the first questions that a server asks, and every event.
pub(super) fn replies() -> Vec<FromGuest> {
    let answers = [
        Ok(Reply::Hello(Hello {
            version: VERSION,
            phase: Phase::Booting,
            boot_id: "0f3c".into(),
        })),
        Ok(Reply::Quiesced),
        Ok(Reply::Activated(Box::new(Activated {
            csr_pem: "-----BEGIN".into(),
            ssh_host_key:
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPbHk4Zb+qNHT5XQ3cUXE4J/eTMBEz5Sg6Gwdl9h1Ld root@vm"
                    .into(),
            hostname: "vm".into(),
            machine_id: "0".repeat(32),
            address: [10, 0, 0, 1].into(),
            unix_time_ns: u64::MAX,
            rng_reseeded: true,
            open_connections: 0,
            has_site: true,
        }))),
        Ok(Reply::Prepared),
        Ok(Reply::Serving),
        Ok(Reply::Status(Status {
            phase: Phase::Serving,
            docker_answers: true,
            docker_restarts: 0,
            activity: Activity::default(),
            unix_time_ns: Some(u64::MAX),
        })),
        Ok(Reply::Logs(Logs {
            dockerd: "one\n\u{1b}[2J\u{202e}two\n".into(),
            containerd: String::new(),
            kernel: "\u{0}".into(),
        })),
        Ok(Reply::Noticed),
        Err(Fault {
            code: FaultCode::Failed,
            message: "\u{1b}no".into(),
        }),
        Ok(Reply::ClockMoved),
    ];
    let answered = answers.into_iter().zip(65_536..);
    let events = [
        Event::Phase(Phase::Ready),
        Event::DaemonExited {
            daemon: "dockerd".into(),
            status: "exit status 1".into(),
        },
        Event::Disk(DiskUse {
            full: false,
            scarce: Scarce::Files,
            used_percent: 255,
            free_mib: u64::MAX,
        }),
        Event::OutOfMemory(OutOfMemory {
            process: "\u{1b}[2J".into(),
            whose: Whose::Container("\u{202e}web\n".into()),
            limit_kib: Some(65_536),
        }),
    ];
    answered
        .map(|(result, id)| FromGuest::Reply { id, result })
        .chain(events.map(FromGuest::Event))
        .collect()
}

/// Every call.
fn requests() -> Vec<Request> {
    let calls = [
        Call::Hello { version: VERSION },
        Call::Quiesce,
        Call::Activate(Box::new(activation())),
        Call::Serve {
            cert_pem: "-----BEGIN".into(),
            client_ca_pem: "-----BEGIN".into(),
        },
        Call::Status,
        Call::Logs { max_bytes: 1 },
        Call::Notice {
            message: "soon".into(),
        },
        Call::MoveClock { by_ns: i64::MIN },
    ];
    let numbered = calls.into_iter().zip(1..);
    numbered.map(|(call, id)| Request { id, call }).collect()
}

pub(super) fn activation() -> Activation {
    Activation {
        hostname: "vm".into(),
        machine_id: "0".repeat(32),
        address: [10, 0, 0, 1].into(),
        gateway: [169, 254, 1, 1].into(),
        gateway_mac: [2, 0, 0, 0, 0, 1],
        nameservers: Vec::new(),
        site: guest_protocol::Live::default(),
        unix_time_ns: 1,
        entropy_hex: "00".into(),
        expect_reseed: true,
    }
}

/// What a decoder made of a stream.
#[derive(Debug, PartialEq)]
enum Item<T> {
    Frame(T),
    Malformed,
    TooLong,
}

/// However the bytes are cut into reads, the same comes out, and what comes out can be written again and
/// read as the same.
fn check<T>(input: &[u8]) -> u64
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug,
{
    let (&cut, bytes) = input.split_first().unwrap_or((&0, &[]));
    let whole = decode::<T>(bytes, 8192);
    let cuts = decode::<T>(bytes, usize::from(cut) + 1);
    // A line that is too long is refused no later than at its end, so both agree up to there.
    assert_eq!(whole, cuts, "the cuts matter");
    let mut kinds = String::new();
    for item in &whole {
        match item {
            Item::Frame(frame) => {
                let kind = match serde_json::to_value(frame) {
                    Ok(Value::Object(fields)) => fields.keys().next().cloned().unwrap_or_default(),
                    other => panic!("a frame is no object: {other:?}"),
                };
                kinds.push_str(&kind);
                again(frame);
            }
            Item::Malformed => kinds.push('m'),
            Item::TooLong => kinds.push('l'),
        }
        if kinds.len() > 40 {
            break;
        }
    }
    outcome(&kinds)
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8], cut: usize) -> Vec<Item<T>> {
    let mut decoder = LineDecoder::default();
    let mut items = Vec::new();
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
    for part in bytes.chunks(cut) {
        let fed = decoder.feed(part);
        // As many frames as lines have ended and no more, or it would never come to an end.
        loop {
            let item = match decoder.next_frame::<T>() {
                Ok(None) => break,
                Ok(Some(frame)) => Item::Frame(frame),
                Err(FrameError::Malformed(_)) => Item::Malformed,
                Err(FrameError::TooLong) => {
                    items.push(Item::TooLong);
                    return items;
                }
            };
            items.push(item);
            assert!(items.len() <= lines, "more frames than lines");
        }
        if fed.is_err() {
            items.push(Item::TooLong);
            return items;
        }
    }
    items
}

fn again<T>(frame: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug,
{
    // What was read from a short line may take a longer one: numbers and texts are written in full.
    let Ok(line) = encode(frame) else { return };
    assert!(line.len() <= MAX_FRAME_BYTES && line.ends_with(b"\n"));
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    match decode::<T>(&line, 8192).as_slice() {
        [Item::Frame(back)] => assert_eq!(back, frame, "it reads as something else"),
        other => panic!("{frame:?} reads as {other:?}"),
    }
}
