//! The lines of the audit log. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use remote_docker_api::{EndReason, ErrorCode, EventKind, LeaseId};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::access::{Caller, Scopes, Token};

/// What a line tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A lease was asked for, and waits for its machine.
    LeaseAsked,
    /// A lease was asked for in vain: there is none.
    LeaseRefused,
    /// A lease has its machine.
    LeaseActive,
    /// A lease lasts longer than before.
    LeaseExtended,
    /// The holder of a lease is done and keeps its machine for a while.
    LeaseKept,
    /// A lease is over.
    LeaseEnded,
    /// Somebody was not let in, or not for this.
    AccessRefused,
    /// A token was made.
    TokenCreated,
    /// A token was taken back.
    TokenRevoked,
}

/// Where a request came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The peer's address, which is that of a proxy where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
    /// Names the request in the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// Who asked for a lease, or for something about one. Kept in its row until it is forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// From where.
    #[serde(flatten)]
    pub origin: Origin,
}

impl Asked {
    /// A caller's request from there.
    #[must_use]
    pub fn by(caller: &Caller, origin: &Origin) -> Self {
        Self {
            credential: Some(caller.name.to_string()),
            origin: origin.clone(),
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// When it happened, in the time that the host's clock shows.
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    event: Event,
    /// The same for two lines that are about one and the same thing.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<String>,
    #[serde(flatten)]
    asked: Asked,
    /// Whose call it was that a line about a lease tells of; the members above are of who asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<Asked>,
    #[serde(flatten)]
    about: About,
    /// How many such lines before this one were left out because there were too many.
    #[serde(skip_serializing_if = "is_zero")]
    left_out: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form that serde asks for"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a line is about.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
enum About {
    Lease(Box<Lease>),
    Refusal {
        code: ErrorCode,
        detail: String,
    },
    Token {
        token: String,
        scopes: Scopes,
        #[serde(
            with = "time::serde::rfc3339::option",
            skip_serializing_if = "Option::is_none"
        )]
        expires_at: Option<OffsetDateTime>,
        /// Who ran the command: number of the system's user.
        uid: u32,
    },
}

/// What is told of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Lease {
    lease: LeaseId,
    engine: String,
    size: String,
    egress: String,
    ttl_s: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    keepalive_s: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_s: Option<i64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<EndReason>,
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    ready_at: Option<OffsetDateTime>,
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    expires_at: Option<OffsetDateTime>,
}

/// Something that happened to a lease, as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are those of the lease and its event"
)]
pub struct LeaseFact {
    pub lease: LeaseId,
    pub seq: u64,
    pub kind: EventKind,
    /// In server time, as all times here.
    pub at: OffsetDateTime,
    pub project: String,
    pub asked: Asked,
    pub caller: Option<Asked>,
    pub engine: String,
    pub size: String,
    /// The word of its network policy, as it stands in the table.
    pub egress: String,
    pub ttl_s: i64,
    pub keepalive_s: Option<i64>,
    pub idle_s: Option<i64>,
    pub labels: BTreeMap<String, String>,
    pub vm: Option<String>,
    pub reason: Option<EndReason>,
    pub ready_at: Option<OffsetDateTime>,
    pub expires_at: Option<OffsetDateTime>,
}

impl Record {
    /// What is to be told of this; nothing of what is only progress. Wall time is `ahead` of the times in
    /// it.
    pub(crate) fn of_lease(fact: LeaseFact, ahead: Duration) -> Option<Self> {
        let event = match fact.kind {
            EventKind::Queued => Event::LeaseAsked,
            EventKind::Ready => Event::LeaseActive,
            EventKind::Extended => Event::LeaseExtended,
            EventKind::Kept => Event::LeaseKept,
            EventKind::Ending => Event::LeaseEnded,
            _ => return None,
        };
        let wall = |moment: OffsetDateTime| moment.saturating_add(ahead);
        // When it is asked for nothing of that is known yet, though it may be in the row by now.
        let later = event != Event::LeaseAsked;
        let lease = Lease {
            lease: fact.lease,
            engine: fact.engine,
            size: fact.size,
            egress: fact.egress,
            ttl_s: fact.ttl_s,
            keepalive_s: fact.keepalive_s,
            idle_s: fact.idle_s,
            labels: fact.labels,
            vm: fact.vm.filter(|_| later),
            reason: fact.reason.filter(|_| event == Event::LeaseEnded),
            ready_at: fact.ready_at.filter(|_| later).map(wall),
            expires_at: fact.expires_at.filter(|_| later).map(wall),
        };
        Some(Self {
            at: wall(fact.at),
            event,
            id: Some(format!("{}/{}", fact.lease, fact.seq)),
            project: Some(fact.project),
            asked: fact.asked,
            caller: fact.caller,
            about: About::Lease(Box::new(lease)),
            left_out: 0,
        })
    }

    /// A request that made no lease.
    #[must_use]
    pub fn lease_refused(
        at: OffsetDateTime,
        caller: &Caller,
        origin: Origin,
        code: ErrorCode,
        detail: String,
    ) -> Self {
        Self {
            at,
            event: Event::LeaseRefused,
            id: None,
            project: Some(caller.project.to_string()),
            asked: Asked {
                credential: Some(caller.name.to_string()),
                origin,
            },
            caller: None,
            about: About::Refusal { code, detail },
            left_out: 0,
        }
    }

    /// Somebody who was not let in; `credential` where it is known which it was.
    #[must_use]
    pub fn access_refused(
        at: OffsetDateTime,
        credential: Option<String>,
        origin: Origin,
        code: ErrorCode,
        detail: String,
    ) -> Self {
        Self {
            at,
            event: Event::AccessRefused,
            id: None,
            project: None,
            asked: Asked { credential, origin },
            caller: None,
            about: About::Refusal { code, detail },
            left_out: 0,
        }
    }

    /// A token that the system's user with this number made or took back.
    #[must_use]
    pub fn token(at: OffsetDateTime, event: Event, token: &Token, uid: u32) -> Self {
        Self {
            at,
            event,
            id: None,
            project: Some(token.project.clone()),
            asked: Asked::default(),
            caller: None,
            about: About::Token {
                token: token.name.clone(),
                scopes: token.scopes.clone(),
                expires_at: token.expires_at,
                uid,
            },
            left_out: 0,
        }
    }

    /// What it tells.
    #[must_use]
    pub fn event(&self) -> Event {
        self.event
    }

    /// The same, after so many like it that were left out.
    pub(super) fn after(self, left_out: u64) -> Self {
        Self { left_out, ..self }
    }

    /// As it stands in the file, with the end of the line.
    #[must_use]
    pub fn line(&self) -> String {
        // Texts, numbers and times always have a JSON form, and it is on one line.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}
