//! What failed calls of the API mean for who typed a command: in this program's own words, as the
//! server's are about members of requests.

use remote_docker_api::ErrorCode;

use crate::client::ApiError;
use crate::tls::TlsFault;

pub(super) const TOKEN_HINT: &str = "set REMOTE_DOCKER_TOKEN or --token-file to a token of the server's, \
    which its operator makes with `remote-dockerd token create`";
pub(super) const NOT_OUR_SERVER: &str =
    "is REMOTE_DOCKER_URL or --url the address of a remote-dockerd that is as new as this program?";

/// Members of requests, and how their values are given here.
const NAMES: [(&str, &str); 8] = [
    ("`ttl_s`", "--ttl"),
    ("`wait_s`", "--wait"),
    ("`keepalive_s`", "--keepalive"),
    ("`idle_s`", "--idle"),
    ("`egress`", "--egress"),
    ("`labels` are", "--label is"),
    ("`client_csr_pem`", "the certificate request"),
    ("the header `Idempotency-Key`", "--idempotency-key"),
];

/// A sentence of the server, with the names of options for those of members.
pub(crate) fn in_options(text: &str) -> String {
    let names = NAMES.iter();
    names.fold(text.to_owned(), |text, (member, option)| {
        text.replace(member, option)
    })
}

/// The program's exit code.
pub(super) fn exit_code(error: &ApiError) -> u8 {
    match error {
        ApiError::Unreachable { .. } | ApiError::Broken { .. } | ApiError::Silent { .. } => 69,
        ApiError::Tls {
            fault: TlsFault::Closed,
            ..
        } => 69,
        ApiError::Unusable { .. } | ApiError::Tls { .. } => 76,
        ApiError::Refused(problem, _) => match problem.code {
            ErrorCode::Unauthorized => 77,
            ErrorCode::NoCapacity | ErrorCode::NotReady => 69,
            ErrorCode::Internal => 70,
            _ => by_status(problem.status),
        },
        ApiError::Status { status, .. } => by_status(status.as_u16()),
    }
}

fn by_status(status: u16) -> u8 {
    match status {
        401 | 403 => 77,
        429 | 502..=504 => 69,
        400..=499 => 65,
        500..=599 => 70,
        _ => 76,
    }
}

/// What to do about it, one line each.
pub(super) fn hints(error: &ApiError) -> Vec<String> {
    let hint = match error {
        ApiError::Unreachable { .. } => {
            "start a server there with `remote-dockerd`, or name another one with \
             REMOTE_DOCKER_URL or --url; `setup-remote-docker doctor` looks for what is in the way"
        }
        ApiError::Tls { fault, .. } => for_tls(*fault),
        ApiError::Broken { .. } => "the server may have been stopped or restarted; try again",
        ApiError::Silent { .. } => "the server may be overloaded; --timeout gives it longer",
        ApiError::Status { status, .. } if matches!(status.as_u16(), 401 | 403) => TOKEN_HINT,
        ApiError::Unusable { .. } | ApiError::Status { .. } => NOT_OUR_SERVER,
        ApiError::Refused(problem, _) => {
            let own = for_code(problem.code).map(str::to_owned);
            let hint = own.or_else(|| problem.hint.as_deref().map(in_options));
            // Of what is the client's own fault the log has no more than the answer.
            let id = problem.request_id.as_ref();
            let log = id
                .filter(|_| problem.status >= 500)
                .map(|id| format!("the server's log has more under the request id {id}"));
            return hint.into_iter().chain(log).collect();
        }
    };
    vec![hint.to_owned()]
}

fn for_tls(fault: TlsFault) -> &'static str {
    match fault {
        TlsFault::Untrusted { pinned: true } => {
            "is that the server you mean? `remote-dockerd ca` on its host prints the certificate for --ca or \
             REMOTE_DOCKER_CA; if it is the one you have, somebody is between you and the server"
        }
        TlsFault::Untrusted { pinned: false } => {
            "`remote-dockerd ca` on the server's host prints the certificate of its authority; name that with \
             --ca or REMOTE_DOCKER_CA"
        }
        TlsFault::Time => {
            "is this machine's clock right? If it is, the server's operator has to renew the certificate"
        }
        TlsFault::Name => {
            "use one of the certificate's names in REMOTE_DOCKER_URL or --url, or let the server's operator \
             add this one to `http.names`"
        }
        TlsFault::NotTls | TlsFault::Closed => {
            "is the port right, and is it meant to be http:// and not https://?"
        }
        TlsFault::NoRoots => {
            "name the server's authority with --ca or REMOTE_DOCKER_CA, or install this system's, such as \
             Debian's package ca-certificates"
        }
        TlsFault::Other => NOT_OUR_SERVER,
    }
}

fn for_code(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::Unauthorized => TOKEN_HINT,
        ErrorCode::TokenExpired | ErrorCode::TokenRevoked => {
            "ask the server's operator for a new token: `remote-dockerd token create` makes one"
        }
        ErrorCode::UnknownProject => "ask the server's operator which projects there are",
        ErrorCode::MissingScope => {
            "use a token that was made for this; the server's operator makes one"
        }
        ErrorCode::OidcRefused => {
            "have the CI system sign a new token for this server's audience; docs/ci.md has how"
        }
        ErrorCode::OidcNoRule => "ask the server's operator for a rule for such jobs",
        ErrorCode::OidcUnavailable => "try again later",
        ErrorCode::TlsRequired => "write https:// in REMOTE_DOCKER_URL or --url",
        ErrorCode::InvalidBody => {
            "the server may be older than this program and not know an option that was given"
        }
        ErrorCode::NotFound | ErrorCode::MethodNotAllowed => {
            "the server may be older than this program, or REMOTE_DOCKER_URL or --url has a wrong path"
        }
        ErrorCode::UnknownEngine => "choose another --engine, or leave it out for the server's own",
        ErrorCode::EgressNotOffered => {
            "choose another --egress, or leave it out for the server's own"
        }
        ErrorCode::UnknownSize => "choose another --size, or leave it out for the server's own",
        ErrorCode::NotAllowed => {
            "choose one of those, or leave the option out; the server's operator decides what a project may \
             have"
        }
        ErrorCode::InvalidTtl => "choose another --ttl, or leave it out for the server's own",
        ErrorCode::InvalidWait => "choose another --wait",
        ErrorCode::InvalidKeepalive => "choose another --keepalive",
        ErrorCode::InvalidIdle => "choose another --idle, or leave it out",
        ErrorCode::InvalidExtension => "ask for less",
        ErrorCode::InvalidIdempotencyKey | ErrorCode::IdempotencyConflict => {
            "choose a new --idempotency-key for each request"
        }
        ErrorCode::InvalidCsr => {
            "this program made that request: is it much older or newer than the server?"
        }
        ErrorCode::InvalidLabels => {
            "at most 16 times --label, with names of 1 to 64 bytes and values of 256 at most"
        }
        ErrorCode::InvalidId | ErrorCode::LeaseNotFound => {
            "`setup-remote-docker list` shows your project's leases; one that has ended is forgotten a \
             day later"
        }
        ErrorCode::LeaseEnded => {
            "`setup-remote-docker show` tells why; `setup-remote-docker start` gets a new one"
        }
        ErrorCode::LeaseNotActive => "`setup-remote-docker show` tells where it stands",
        ErrorCode::NoCapacity => "try again later, or wait longer with --wait",
        ErrorCode::QuotaExceeded => {
            "`setup-remote-docker list` shows what your project has; stop one of them, or wait longer with \
             --wait"
        }
        ErrorCode::StartFailed => {
            "the fault is the server's: its operator finds more in its log; trying again may help"
        }
        ErrorCode::GuestSilent => "the machine may be busy or broken; try again",
        ErrorCode::NotReady => "try again in a while; the server tells at /readyz what is missing",
        _ => return None,
    })
}
