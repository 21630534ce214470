//! Every call: what it takes beside its body, and what it may answer.

use std::collections::BTreeMap;

use remote_docker_api::ErrorCode as Code;

/// One method of one path.
pub(super) struct Operation {
    /// In small letters, as the document has it.
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    /// Answers callers without a token.
    pub(super) open: bool,
    pub(super) parameters: &'static [Parameter],
    /// Name of the schema of its body.
    pub(super) body: Option<&'static str>,
    pub(super) answers: &'static [Answer],
    /// The codes that are its own, beside those of every call of its kind.
    pub(super) codes: &'static [Code],
}

/// What a call takes beside its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parameter {
    Lease,
    Wait,
    KnownTag,
    IdempotencyKey,
    LastEvent,
}

/// An answer that is no refusal.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) what: &'static str,
    pub(super) body: Body,
    /// Those that are always there, with what they are.
    pub(super) headers: &'static [(&'static str, &'static str)],
}

/// What an answer holds.
pub(super) enum Body {
    Nothing,
    /// JSON, after the schema of this name.
    Json(&'static str),
    /// Text of this media type.
    Text(&'static str),
    /// A JSON object that no schema of ours describes.
    Any,
}

impl Operation {
    /// The codes that it may answer, by status.
    pub(super) fn refusals(&self) -> BTreeMap<u16, Vec<Code>> {
        let mut codes = self.codes.to_vec();
        if !self.open {
            codes.extend(WITH_TOKEN);
        }
        if self.parameters.contains(&Parameter::Lease) {
            codes.extend([Code::InvalidId, Code::LeaseNotFound]);
        }
        if self.parameters.contains(&Parameter::Wait) {
            codes.push(Code::InvalidWait);
        }
        if self.body.is_some() {
            codes.extend([Code::InvalidBody, Code::BodyTooLarge]);
        }
        let mut refusals: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
        for code in codes {
            for status in super::statuses(code) {
                let known = refusals.entry(*status).or_default();
                if !known.contains(&code) {
                    known.push(code);
                }
            }
        }
        refusals
    }
}

/// Of every call that looks at leases.
const WITH_TOKEN: [Code; 10] = [
    Code::Unauthorized,
    Code::TokenExpired,
    Code::TokenRevoked,
    Code::UnknownProject,
    Code::MissingScope,
    Code::OidcRefused,
    Code::OidcNoRule,
    Code::OidcUnavailable,
    Code::NotReady,
    Code::Internal,
];

const ETAG: (&str, &str) = ("ETag", "Names what the lease is now");
const LOCATION: (&str, &str) = ("Location", "Path of the lease");

const fn lease(status: u16, what: &'static str) -> Answer {
    Answer {
        status,
        what,
        body: Body::Json("Lease"),
        headers: &[],
    }
}

const fn made(status: u16, what: &'static str) -> Answer {
    Answer {
        headers: &[LOCATION, ETAG],
        ..lease(status, what)
    }
}

const fn plain(status: u16, what: &'static str, body: Body) -> Answer {
    Answer {
        status,
        what,
        body,
        headers: &[],
    }
}

/// All of them, in the order of `router.rs`.
pub(super) const ALL: &[Operation] = &[
    Operation {
        method: "post",
        path: "/v1/leases",
        id: "createLease",
        summary: "Asks for a machine, and waits for it",
        open: false,
        parameters: &[Parameter::IdempotencyKey],
        body: Some("CreateLease"),
        answers: &[
            made(200, "The lease that the same request made before"),
            made(201, "An active lease"),
            made(202, "A lease that waits, as `wait_s` was 0"),
        ],
        codes: &[
            Code::UnknownEngine,
            Code::UnknownSize,
            Code::EgressNotOffered,
            Code::NotAllowed,
            Code::InvalidTtl,
            Code::InvalidWait,
            Code::InvalidKeepalive,
            Code::InvalidIdle,
            Code::InvalidIdempotencyKey,
            Code::IdempotencyConflict,
            Code::InvalidCsr,
            Code::InvalidLabels,
            Code::NoCapacity,
            Code::QuotaExceeded,
            Code::StartFailed,
        ],
    },
    Operation {
        method: "get",
        path: "/v1/engines",
        id: "listEngines",
        summary: "The engines that leases can ask for, oldest first",
        open: false,
        parameters: &[],
        body: None,
        answers: &[plain(200, "The engines", Body::Json("EngineList"))],
        codes: &[],
    },
    Operation {
        method: "get",
        path: "/v1/leases",
        id: "listLeases",
        summary: "The project's leases that have not ended, oldest first",
        open: false,
        parameters: &[],
        body: None,
        answers: &[plain(200, "The leases", Body::Json("LeaseList"))],
        codes: &[],
    },
    Operation {
        method: "get",
        path: "/v1/leases/{id}",
        id: "showLease",
        summary: "One lease, at once or when it changes",
        open: false,
        parameters: &[Parameter::Lease, Parameter::Wait, Parameter::KnownTag],
        body: None,
        answers: &[
            Answer {
                headers: &[ETAG],
                ..lease(200, "The lease")
            },
            Answer {
                headers: &[ETAG],
                ..plain(
                    304,
                    "It is what `If-None-Match` names, still",
                    Body::Nothing,
                )
            },
        ],
        codes: &[],
    },
    Operation {
        method: "delete",
        path: "/v1/leases/{id}",
        id: "releaseLease",
        summary: "Gives a lease back; one that has ended as well",
        open: false,
        parameters: &[Parameter::Lease],
        body: None,
        answers: &[plain(204, "It ends, or has ended", Body::Nothing)],
        codes: &[],
    },
    Operation {
        method: "post",
        path: "/v1/leases/{id}/heartbeat",
        id: "heartbeat",
        summary: "Says that the holder is there",
        open: false,
        parameters: &[Parameter::Lease],
        body: None,
        answers: &[lease(200, "The lease, with its new `heartbeat_due_at`")],
        codes: &[Code::LeaseEnded, Code::LeaseNotActive, Code::NoKeepalive],
    },
    Operation {
        method: "post",
        path: "/v1/leases/{id}/extend",
        id: "extendLease",
        summary: "Makes a lease last at least so long; it never gets shorter",
        open: false,
        parameters: &[Parameter::Lease],
        body: Some("ExtendLease"),
        answers: &[lease(200, "The lease, with its new `expires_at`")],
        codes: &[
            Code::InvalidExtension,
            Code::LeaseEnded,
            Code::LeaseNotActive,
        ],
    },
    Operation {
        method: "post",
        path: "/v1/leases/{id}/keep",
        id: "keepLease",
        summary: "The holder is done, and the machine stays for a while",
        open: false,
        parameters: &[Parameter::Lease],
        body: Some("KeepLease"),
        answers: &[lease(200, "The lease, with its new `expires_at`")],
        codes: &[
            Code::InvalidExtension,
            Code::LeaseEnded,
            Code::LeaseNotActive,
        ],
    },
    Operation {
        method: "get",
        path: "/v1/leases/{id}/events",
        id: "followLease",
        summary: "What happened and happens to a lease, as server-sent events: the data of each is a LeaseEvent",
        open: false,
        parameters: &[Parameter::Lease, Parameter::LastEvent],
        body: None,
        answers: &[plain(200, "The events", Body::Text("text/event-stream"))],
        codes: &[Code::TooManyStreams, Code::InvalidLastEventId],
    },
    Operation {
        method: "get",
        path: "/v1/leases/{id}/logs",
        id: "leaseLogs",
        summary: "What the machine of a lease said last",
        open: false,
        parameters: &[Parameter::Lease],
        body: None,
        answers: &[plain(200, "The ends of its logs", Body::Json("LeaseLogs"))],
        codes: &[Code::LeaseEnded, Code::LeaseNotActive, Code::GuestSilent],
    },
    Operation {
        method: "get",
        path: "/healthz",
        id: "alive",
        summary: "Whether the server answers",
        open: true,
        parameters: &[],
        body: None,
        answers: &[plain(200, "It does", Body::Text("text/plain"))],
        codes: &[],
    },
    Operation {
        method: "get",
        path: "/readyz",
        id: "ready",
        summary: "Whether leases can be served, and how each part of the server is",
        open: true,
        parameters: &[],
        body: None,
        answers: &[
            plain(200, "They can", Body::Json("Readiness")),
            plain(503, "They cannot, now", Body::Json("Readiness")),
        ],
        codes: &[],
    },
    Operation {
        method: "get",
        path: "/v1/openapi.json",
        id: "openapi",
        summary: "This document",
        open: true,
        parameters: &[],
        body: None,
        answers: &[plain(200, "An OpenAPI document", Body::Any)],
        codes: &[],
    },
    Operation {
        method: "get",
        path: "/metrics",
        id: "metrics",
        summary: "What is counted and measured, as OpenMetrics; the server can be set to answer it without a token",
        open: false,
        parameters: &[],
        body: None,
        answers: &[plain(
            200,
            "The numbers",
            Body::Text("application/openmetrics-text"),
        )],
        codes: &[],
    },
];
