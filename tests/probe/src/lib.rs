//! A program that tries what a hostile build would try, for the tests: it is given a list of attempts, makes them
//! all at once, each within its time, and tells in one line of JSON what came of each. It judges nothing; the tests
//! look at what arrived.
//!
//! In the library is what the tests share with it: the words, and sockets for whole frames.

pub mod wire;

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

/// Something to try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// How the tests know it again.
    pub name: String,
    /// What to do.
    pub deed: Deed,
    /// How long an answer is waited for, in milliseconds.
    pub patience_ms: u64,
}

/// What can be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// Connect, say something, and listen.
    Tcp {
        /// Where to.
        to: SocketAddrV4,
        /// What is said.
        say: String,
    },
    /// Send datagrams, one each [`PACE`], until there is an answer.
    Udp {
        /// Where to.
        to: SocketAddrV4,
        /// What is said.
        say: String,
    },
    /// Ask for echoes, one each [`PACE`], until there is one.
    Ping {
        /// Whom.
        to: Ipv4Addr,
        /// What is to be said back.
        say: String,
    },
    /// Put a frame onto the wire as it is, whatever the system thinks of it. Nothing is waited for.
    Frame {
        /// The network card.
        device: String,
        /// The whole frame.
        bytes: Vec<u8>,
    },
    /// Send one datagram from each of so many ports, the first of which is [`FIRST_PORT`]. Nothing is waited for.
    Flood {
        /// Where to.
        to: SocketAddrV4,
        /// From how many ports.
        ports: u16,
        /// What is said.
        say: String,
    },
    /// Connect with TLS, say something, and listen. Whoever answers is believed to be who they are.
    Tls {
        /// Where to.
        to: SocketAddrV4,
        /// Certificate and private key to be known by, both PEM.
        identity: Option<(String, String)>,
        /// What is said.
        say: String,
    },
}

/// From one datagram, echo request or frame to the next.
pub const PACE: std::time::Duration = std::time::Duration::from_millis(100);

/// The first port of a flood.
pub const FIRST_PORT: u16 = 20_000;

/// How often a frame is sent.
pub const FRAMES: u32 = 3;

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// [`Attempt::name`].
    pub name: String,
    /// What was heard.
    pub heard: Heard,
}

/// What was heard after an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Heard {
    /// What was said back. For TCP also nothing: the connection stood.
    Answer(String),
    /// Nothing at all, until the time was over.
    Silence,
    /// The system or the other side refused, in its words.
    Refusal(String),
    /// The probe could not even try. A test that gets this tests nothing.
    Broken(String),
}
