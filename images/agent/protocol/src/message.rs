//! The messages. Every field is what the other side needs to know and cannot find out by itself.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{DiskUse, Live, OutOfMemory, Site};

/// Server to agent: do something and answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Comes back in the reply.
    pub id: u64,
    /// What to do.
    pub call: Call,
}

/// What the server may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Who is there, and how far is it? Answered with [`Reply::Hello`] in every phase.
    Hello {
        /// The server's [`crate::VERSION`].
        version: u32,
    },
    /// Start the Docker daemon, with this. Allowed once, in [`Phase::Booting`]; answered with
    /// [`Reply::Prepared`] as soon as the daemon's configuration is written.
    Prepare(Box<Site>),
    /// Prepare to be copied: finish what is under way, drop caches, hold no connection, write
    /// nothing more. Allowed in [`Phase::Ready`]; answered with [`Reply::Quiesced`].
    Quiesce,
    /// Become a machine of its own. Allowed in [`Phase::Ready`] (after a cold boot) and
    /// [`Phase::Quiesced`] (in a clone). Answered with [`Reply::Activated`] when all of it is done.
    Activate(Box<Activation>),
    /// Listen for the holder of the lease with this certificate. Allowed in [`Phase::Activated`];
    /// answered with [`Reply::Serving`] when the socket listens.
    Serve {
        /// Certificate for the key whose request [`Activated`] carried (PEM).
        cert_pem: String,
        /// The CA that signs the certificates of those who may connect (PEM).
        client_ca_pem: String,
    },
    /// How is it? Answered with [`Reply::Status`] in every phase.
    Status,
    /// The ends of the logs, for people. Answered with [`Reply::Logs`] in every phase.
    Logs {
        /// How much of each log is wanted, in bytes; more than [`crate::MAX_LOG_TAIL_BYTES`] means
        /// just that.
        max_bytes: u32,
    },
    /// Write this on the guest's console, for whoever works there. Answered with
    /// [`Reply::Noticed`] in every phase.
    Notice {
        /// One line; cut after [`crate::MAX_NOTICE_BYTES`].
        message: String,
    },
    /// Move the clock by so much. Answered with [`Reply::ClockMoved`] in every phase.
    MoveClock {
        /// Nanoseconds, forward if positive. A difference and no moment: however long the frame is on
        /// its way, it means the same.
        by_ns: i64,
    },
}

/// What makes a guest a machine of its own.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// Host name; the VM's id.
    pub hostname: String,
    /// 32 lower-case hexadecimal digits for `/etc/machine-id`.
    pub machine_id: String,
    /// The guest's address, a /32.
    pub address: Ipv4Addr,
    /// The gateway on the link, the same for all guests.
    pub gateway: Ipv4Addr,
    /// The gateway's hardware address. The guest enters it as a permanent neighbour, so that its
    /// first packet waits for no answer.
    pub gateway_mac: [u8; 6],
    /// DNS servers for `/etc/resolv.conf`; may be empty.
    pub nameservers: Vec<Ipv4Addr>,
    /// The host's clock when the frame was sent, in nanoseconds since 1970 (UTC).
    pub unix_time_ns: u64,
    /// Fresh random bytes of the host (hexadecimal) for the guest's random number generator.
    pub entropy_hex: String,
    /// Whether this guest is a clone, so that the kernel must have reseeded its random number
    /// generator because the VM generation id changed.
    pub expect_reseed: bool,
    /// What the site wants of the guest today.
    #[serde(default, skip_serializing_if = "Live::is_default")]
    pub site: Live,
}

impl std::fmt::Debug for Activation {
    /// Leaves the entropy out: whatever is printed may land in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Activation")
            .field("hostname", &self.hostname)
            .field("address", &self.address)
            .field("expect_reseed", &self.expect_reseed)
            .finish_non_exhaustive()
    }
}

/// Agent to server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromGuest {
    /// Answer to the request of the same id.
    Reply {
        /// Id of the request.
        id: u64,
        /// What became of it.
        result: Result<Reply, Fault>,
    },
    /// Something happened.
    Event(Event),
}

/// Answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Call::Hello`].
    Hello(Hello),
    /// To [`Call::Prepare`].
    Prepared,
    /// To [`Call::Quiesce`].
    Quiesced,
    /// To [`Call::Activate`].
    Activated(Box<Activated>),
    /// To [`Call::Serve`].
    Serving,
    /// To [`Call::Status`].
    Status(Status),
    /// To [`Call::Logs`].
    Logs(Logs),
    /// To [`Call::Notice`].
    Noticed,
    /// To [`Call::MoveClock`].
    ClockMoved,
}

/// Who the agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The agent's [`crate::VERSION`].
    pub version: u32,
    /// How far the guest is.
    pub phase: Phase,
    /// The kernel's boot id; equal in a template and its clones.
    pub boot_id: String,
}

/// How far a guest is. Only forward: a guest that must go back is destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The Docker daemon does not answer yet; it is not started before [`Call::Prepare`].
    Booting,
    /// The Docker daemon answers on its Unix socket.
    Ready,
    /// Ready to be copied, or just copied.
    Quiesced,
    /// Has its own identity.
    Activated,
    /// Listens for the holder of the lease.
    Serving,
}

/// What the agent found when it had done an [`Activation`]. The server checks it against what it
/// asked for and destroys the guest on any miss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activated {
    /// Request for the guest's TLS certificate; its key was made after the activation (PEM).
    pub csr_pem: String,
    /// The guest's SSH host key, made after the activation (OpenSSH format, one line).
    pub ssh_host_key: String,
    /// Host name as the kernel tells it now.
    pub hostname: String,
    /// `/etc/machine-id` as it reads now.
    pub machine_id: String,
    /// Address on the link as the kernel tells it now.
    pub address: Ipv4Addr,
    /// The guest's clock when the reply was made, in nanoseconds since 1970 (UTC).
    pub unix_time_ns: u64,
    /// Whether the kernel logged after the copy was made that it reseeded its random number
    /// generator because of a changed VM generation id.
    pub rng_reseeded: bool,
    /// Connections to the Docker socket or the TLS port that were open; must be none.
    pub open_connections: u32,
    /// Whether the guest has what [`Activation::site`] asks for. An agent from before there was such a
    /// thing does not say so.
    #[serde(default)]
    pub has_site: bool,
}

/// How a guest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// How far it is.
    pub phase: Phase,
    /// Whether the Docker daemon answers now.
    pub docker_answers: bool,
    /// How often the Docker daemon had to be started again.
    pub docker_restarts: u32,
    /// What its holder does with it.
    pub activity: Activity,
    /// The guest's clock between the question and this answer, in nanoseconds since 1970 (UTC). An agent that
    /// does not know [`Call::MoveClock`] does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix_time_ns: Option<u64>,
}

/// What is done with a guest. Nothing of it is asked of the Docker daemon, so that a daemon that is
/// stuck does not look idle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Milliseconds since the last byte went through a TLS connection in either direction, as the
    /// agent's own proxy counted it; `None` while none ever did.
    pub idle_ms: Option<u64>,
    /// TLS connections that are open now.
    pub connections: u32,
    /// Connections on which the client spoke last: a request that waits for its answer.
    pub requests_pending: u32,
    /// Builds under way: connections that carry one, as their request line told, or control groups
    /// of build steps in which processes run, whichever is more. Not zero if there is a build, and
    /// not an exact number.
    pub builds_running: u32,
    /// Control groups in which processes run, those of build steps left out: containers, wherever
    /// their group was put, paused ones included. `None` when it could not be found out.
    pub containers_running: Option<u32>,
}

impl Activity {
    /// Whether anything but bytes that moved says that somebody uses the guest. What is not known
    /// counts as being used.
    #[must_use]
    pub fn works(&self) -> bool {
        self.requests_pending > 0 || self.builds_running > 0 || self.containers_running != Some(0)
    }
}

/// The ends of a guest's logs: text of several lines that may begin in the middle of one, of at most
/// [`crate::MAX_LOG_TAIL_BYTES`] each; empty where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// What `dockerd` said.
    pub dockerd: String,
    /// What `containerd` said.
    pub containerd: String,
    /// What the kernel said.
    pub kernel: String,
}

/// What the agent says unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The phase changed by itself (the daemon became ready).
    Phase(Phase),
    /// The Docker daemon or containerd ended and is being started again.
    DaemonExited {
        /// `dockerd` or `containerd`.
        daemon: String,
        /// How it ended, in words, such as `exit status 1`.
        status: String,
    },
    /// The file system on which Docker keeps everything is nearly full, or full.
    Disk(DiskUse),
    /// The kernel ended a process because there was no memory left for it.
    OutOfMemory(OutOfMemory),
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// For programs.
    pub code: FaultCode,
    /// For people; at most a few hundred bytes.
    pub message: String,
}

/// Kinds of [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultCode {
    /// The request is not one that this version knows.
    Unsupported,
    /// The request is not allowed in the guest's phase.
    WrongPhase,
    /// A step of it failed.
    Failed,
}
