//! Leases on the wire.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;

use crate::{Egress, LeaseEvent, LeaseId};

/// Body of `POST /v1/leases`. Whatever is left out takes the server's default.
///
/// Durations are signed on the wire so that a negative one is answered by a sentence about the
/// field and not by a parser's complaint about integer types.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateLease {
    /// Which Docker engine: a name or an alias from the server's images, such as `26`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// Which machine size, by the name the server's configuration gives it, such as `small`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// How long the lease lasts, in seconds, counted from the moment the machine is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<i64>,
    /// How long the call may wait for the machine, in seconds. With 0 it answers at once with a
    /// waiting lease, to be followed by `GET /v1/leases/{id}?wait_s=`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_s: Option<i64>,
    /// The lease ends when its holder sends no heartbeat for so many seconds. Without it, none is
    /// expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive_s: Option<i64>,
    /// The lease ends when for so many seconds nobody used its Docker API, no container ran and no
    /// build was under way. Without it, idleness does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_s: Option<i64>,
    /// What the machine may reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// PKCS #10 request (PEM) for the client certificate. The private key stays with the client.
    pub client_csr_pem: String,
    /// Free words of the requester that are shown in lists; at most 16, of 64 and 256 bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Where a lease is in its life: `waiting → active → ending → ended`; a lease that is given up
/// while it waits goes straight to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LeaseState {
    /// No machine is ready for it yet.
    Waiting,
    /// Its machine answers.
    Active,
    /// Its machine is being destroyed.
    Ending,
    /// Nothing of it is left on the host.
    Ended,
    /// Something that this client does not know; no server of this version sends it.
    #[serde(other)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}

/// Why a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The holder gave it back.
    Released,
    /// Its time was over.
    Expired,
    /// Its machine died or was destroyed by somebody else.
    VmLost,
    /// Its machine wrote more than the host's disk can hold.
    DiskFull,
    /// The client that waited for it went away.
    ClientGone,
    /// No machine became ready in the time the client was willing to wait.
    WaitTimeout,
    /// Machine after machine failed to become ready for it.
    StartFailed,
    /// Its holder sent no heartbeat in time, as it had said it would.
    KeepaliveMissed,
    /// Nothing happened on it for as long as its holder had said.
    Idle,
    /// The server was told to give up its machines.
    Drained,
}

/// Where a lease that waits stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Queue {
    /// Its place among all leases that wait for a machine; 1 is the next to be served.
    pub position: u32,
    /// What is being done for it now.
    pub doing: Doing,
    /// In how many seconds it will have its machine, if nobody gives one back early: made from how
    /// long starts took lately and when the leases that hold the memory end at the latest. Missing
    /// when nothing is known to build it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_wait_s: Option<u64>,
}

/// What is being done for a lease that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// Nothing yet: what the host can hold is in use.
    Queued,
    /// The template of its kind of machine is being built.
    BuildingTemplate,
    /// Its machine is being cloned, or booted where there is no template.
    Cloning,
    /// Its machine runs and gets its identity.
    Activating,
    /// Nothing: its project has as much as it may have at a time.
    Quota,
    /// Something that this client does not know.
    #[serde(other)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}

/// Body of `POST /v1/leases/{id}/extend`: exactly one of the two. The lease lasts at least until
/// then; it never gets shorter, so that the same call may be sent again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ExtendLease {
    /// The lease lasts at least so many seconds more, counted from when the server reads this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_s: Option<i64>,
    /// The lease lasts at least until this moment of the server's clock.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Moment>"))]
    pub until: Option<OffsetDateTime>,
}

/// Body of `POST /v1/leases/{id}/keep`: the holder is done, and the machine stays for so long to be looked
/// into. Nobody is expected to send heartbeats or to use it from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct KeepLease {
    /// The lease lasts so many seconds from when the server reads this: less than before, or more.
    pub keep_s: i64,
}

/// How to reach the Docker daemon of an active lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DockerEndpoint {
    /// Value for `DOCKER_HOST`, such as `tcp://127.0.0.1:23760`.
    pub host: String,
    /// The certificate authority of this one machine (PEM); becomes `ca.pem`.
    pub ca_pem: String,
    /// The client certificate made from the request's CSR (PEM); becomes `cert.pem`.
    pub cert_pem: String,
}

/// How to reach the machine of an active lease by SSH: through the same port as its Docker daemon, with
/// the same certificate. A client that offers the protocol `alpn` in the TLS handshake (RFC 7301) gets an
/// SSH server there, which asks for no more than the user's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SshEndpoint {
    /// Name of the protocol to offer.
    pub alpn: String,
    /// Whom to log in as.
    pub user: String,
    /// The key that the SSH server shows (OpenSSH format, one line, without a host's name).
    pub host_key: String,
}

/// How long one step of a start took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StepTiming {
    /// Name of the step, such as `clone`.
    pub step: String,
    /// Its duration in milliseconds.
    pub duration_ms: u64,
}

/// A lease as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// Where it is in its life.
    pub state: LeaseState,
    /// The engine it got or waits for.
    pub engine: String,
    /// The machine size it got or waits for.
    pub size: String,
    /// How long it lasts from the moment it is ready, in seconds.
    pub ttl_s: u64,
    /// What the requester wrote on it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Moment"))]
    pub created_at: OffsetDateTime,
    /// When its machine was ready and handed over.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Moment>"))]
    pub ready_at: Option<OffsetDateTime>,
    /// When it ends unless it is given back earlier.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Moment>"))]
    pub expires_at: Option<OffsetDateTime>,
    /// When nothing of it was left on the host.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Moment>"))]
    pub ended_at: Option<OffsetDateTime>,
    /// Why it ends or ended. A reason that is not known here, from a newer server, reads as none: the end
    /// itself must not be missed for it.
    #[serde(
        default,
        deserialize_with = "known_or_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub end_reason: Option<EndReason>,
    /// More about the end, in words: what a machine that failed or was lost had said last, for example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_detail: Option<String>,
    /// How often its holder must send a heartbeat, in seconds; missing when none is expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive_s: Option<u64>,
    /// When it ends unless a heartbeat comes before; there while it is active and expects them.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Moment>"))]
    pub heartbeat_due_at: Option<OffsetDateTime>,
    /// How long nothing may happen on it before it ends, in seconds; missing when that is no reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_s: Option<u64>,
    /// What its machine may reach; missing when the server is too old to tell, or the policy too new to
    /// be known here.
    #[serde(
        default,
        deserialize_with = "known_or_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub egress: Option<Egress>,
    /// Where it stands while it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
    /// SHA-256 (hexadecimal) of `client_csr_pem` as it came, while it waits: whoever waits for the
    /// answer to the request that made the lease finds it in the list by this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csr_sha256: Option<String>,
    /// Whether the machine was ready before the lease was asked for.
    #[serde(default)]
    pub warm: bool,
    /// How to reach the daemon; there while the lease is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker: Option<DockerEndpoint>,
    /// How to log in on the machine; there while the lease is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<SshEndpoint>,
    /// What the start was made of, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timings: Vec<StepTiming>,
    /// What its machine ran out of, oldest first: its events of the kinds `disk_low`, `disk_full` and
    /// `out_of_memory`, 32 at most. Told by `GET /v1/leases/{id}` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<LeaseEvent>,
    /// A credential for this lease alone, told to whoever makes it. It is good for as long as the lease is
    /// known, also when what the lease was made with is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
}

/// Text that never shows in debug output.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// This text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text. Never to be logged.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

fn known_or_none<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Word<T> {
        Known(T),
        Other(IgnoredAny),
    }
    Ok(match Word::deserialize(deserializer)? {
        Word::Known(word) => Some(word),
        Word::Other(IgnoredAny) => None,
    })
}

/// Answer of `GET /v1/leases`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LeaseList {
    /// Leases that have not ended, oldest first.
    pub leases: Vec<Lease>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_for_a_reason_from_the_future_is_an_end_all_the_same() {
        let ended = |reason: serde_json::Value| -> Lease {
            serde_json::from_value(serde_json::json!({
                "id": "l-0000000000001", "state": "ended", "engine": "28", "size": "small",
                "ttl_s": 1, "created_at": "2026-01-31T12:00:00Z", "end_reason": reason,
            }))
            .unwrap()
        };
        assert_eq!(ended("idle".into()).end_reason, Some(EndReason::Idle));
        for unknown in ["reason_of_2031".into(), serde_json::Value::Null] {
            let lease = ended(unknown);
            assert_eq!((lease.state, lease.end_reason), (LeaseState::Ended, None));
        }
    }
}
