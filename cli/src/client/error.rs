//! Why a call had no success.

use std::time::Duration;

use hyper::StatusCode;
use remote_docker_api::{ErrorCode, LeaseId, Problem};

use crate::error::in_options;
use crate::server_url::ServerUrl;

/// A call had no success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("cannot reach the server at {server}")]
    Unreachable {
        server: ServerUrl,
        source: std::io::Error,
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
    #[error("{} ({}): {}", refusal(.0), .0.code.as_str(), sentence(.0))]
    Refused(Box<Problem>),
    #[error("the server at {server} answered {status} and did not say why")]
    Status {
        server: ServerUrl,
        status: StatusCode,
    },
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
            Self::Refused(problem) => Some(problem.code),
            _ => None,
        }
    }

    /// Whether a server that goes on where it was would answer the same call when it is back.
    pub(super) fn is_loss_of_touch(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } => true,
            Self::Refused(problem) => problem.code == ErrorCode::NotReady,
            _ => false,
        }
    }

    /// Whether the same call may have success a moment later.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Silent { .. } => true,
            Self::Refused(problem) => problem.status >= 500,
            Self::Status { status, .. } => status.is_server_error(),
            Self::Unusable { .. } => false,
        }
    }
}
