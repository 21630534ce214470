//! The language of the server and the agent inside a guest.
//!
//! They talk over a virtio-serial port. One frame is one JSON object on one line. A line break
//! never occurs inside JSON as it is written here, so either side finds the next frame again after
//! the other one died in the middle of a frame: the stream of a port has no beginning that both
//! sides see, it merely goes on when somebody connects again. That is also why a peer that has just
//! connected sends an empty line first: it ends whatever its predecessor left half written.
//!
//! The server sends [`Request`]s, at most one at a time; the agent answers each with a [`Reply`]
//! of the same id and sends [`Event`]s when it has something to say. Replies with another id are
//! answers to a predecessor and are dropped.

mod codec;
mod message;
mod shortage;
mod site;

pub use codec::{FrameError, LineDecoder, MAX_FRAME_BYTES, encode};
pub use message::{
    Activated, Activation, Activity, Call, Event, Fault, FaultCode, FromGuest, Hello, Logs, Phase,
    Reply, Request, Status,
};
pub use shortage::{DiskUse, OutOfMemory, Scarce, Whose};
pub use site::{AddressPool, Authority, Fixed, Live, Proxy, Site, Ulimit};

/// Version of the language. Both sides say theirs in `hello`.
pub const VERSION: u32 = 5;

/// The oldest version that the server still speaks to: that of images from before there were settings of
/// the site, which do as long as there are none. Guests of before version 5 do not tell what they run out
/// of, nor the time, so that nobody corrects it.
pub const OLDEST_VERSION: u32 = 3;

/// Name of the virtio-serial port; the guest finds it as `/dev/virtio-ports/<name>` or by the
/// `name` file below `/sys/class/virtio-ports`.
pub const PORT_NAME: &str = "remote-docker.agent.0";

/// TCP port on which the agent ends TLS and hands the bytes to the Docker daemon.
pub const DOCKER_PORT: u16 = 2376;

/// Name of the protocol (ALPN, RFC 7301) that a client offers on [`DOCKER_PORT`] to get an SSH server in
/// place of the Docker daemon. The user is `root`, and nothing more is asked of who has shown the
/// lease's certificate.
pub const SSH_ALPN: &[u8] = b"remote-docker-ssh";

/// The most of one log that a guest sends, in bytes. Three of them fit into a frame, even if every
/// character is one that JSON writes as two.
pub const MAX_LOG_TAIL_BYTES: usize = 10 * 1024;

/// The longest name of a process or a container that a guest tells, in bytes.
pub const MAX_NAME_BYTES: usize = 120;

/// The longest notice, in bytes.
pub const MAX_NOTICE_BYTES: usize = 300;
