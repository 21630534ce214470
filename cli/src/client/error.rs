//! Why a call had no success.

use std::time::Duration;

use hyper::StatusCode;
use remote_docker_api::{ErrorCode, LeaseId, Problem};

use crate::error::in_options;
use crate::server_url::ServerUrl;
use crate::tls::TlsFault;

/// A call had no success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("cannot reach the server at {server}")]
    Unreachable {
        server: ServerUrl,
        source: std::io::Error,
    },
    #[error("no secure connection to the server at {server}: {}", insecure(*fault))]
    Tls {
        server: ServerUrl,
        fault: TlsFault,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the connection to the server at {server} broke before its answer was complete")]
    Broken {
        server: ServerUrl,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the server at {server} did not answer within {}", humantime::format_duration(*limit))]
    Silent { server: ServerUrl, limit: Duration },
    #[error("the answer of the server at {server} cannot be used: {what}")]
    Unusable {
        server: ServerUrl,
        what: &'static str,
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
        /// The lease that the answer was about, where that much could be read.
        lease: Option<LeaseId>,
    },
    /// What it refused, and the code as it wrote it: one that is not known here may say something to people.
    #[error("{} ({}): {}", refusal(.0), .1, sentence(.0))]
    Refused(Box<Problem>, String),
    #[error("the server at {server} answered {status} and did not say why")]
    Status {
        server: ServerUrl,
        status: StatusCode,
    },
}

fn insecure(fault: TlsFault) -> &'static str {
    match fault {
        TlsFault::Untrusted { pinned: true } => {
            "its certificate is of another authority than the one that was given"
        }
        TlsFault::Untrusted { pinned: false } => {
            "its certificate is of an authority that this system does not know"
        }
        TlsFault::Time => "its certificate is not valid at this time",
        TlsFault::Name => "its certificate is for other names",
        TlsFault::NotTls => "it does not speak TLS there",
        TlsFault::Closed => "it hung up before there was one",
        TlsFault::NoRoots => "there is no authority to trust",
        TlsFault::Other => "TLS failed",
    }
}

fn refusal(problem: &Problem) -> &'static str {
    if problem.status >= 500 {
        "the server cannot do it now"
    } else {
        "the server refused the request"
    }
}

fn sentence(problem: &Problem) -> String {
    in_options(if problem.detail.is_empty() {
        &problem.title
    } else {
        &problem.detail
    })
}

impl ApiError {
    /// The server's code, if it gave one.
    pub(crate) fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(problem, _) => Some(problem.code),
            _ => None,
        }
    }

    /// Whether a server that goes on where it was would answer the same call when it is back.
    pub(super) fn is_loss_of_touch(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } => true,
            Self::Tls { fault, .. } => *fault == TlsFault::Closed,
            Self::Refused(problem, _) => problem.code == ErrorCode::NotReady,
            _ => false,
        }
    }

    /// Whether the same call may have success a moment later.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Silent { .. } => true,
            Self::Refused(problem, _) => problem.status >= 500,
            Self::Status { status, .. } => status.is_server_error(),
            Self::Tls { fault, .. } => *fault == TlsFault::Closed,
            Self::Unusable { .. } => false,
        }
    }
}
