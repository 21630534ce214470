//! The variables that make `docker` and what is built on it use a lease, and how they are put back.
//!
//! Four of them are the lease's own. A few others may lead elsewhere and are changed only where they
//! would: a list of hosts that no proxy is asked for, and what Testcontainers was told about another
//! daemon. What was changed is noted beside the keys, so that `stop` can put it back.

use serde::{Deserialize, Serialize};

use crate::environment::Environment;

mod format;

pub(crate) use format::{Unwritable, object, write};

/// The variables of every lease, in the order in which they are told.
pub(crate) const OWN: [&str; 4] = [
    "DOCKER_HOST",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "REMOTE_DOCKER_LEASE",
];

/// The daemon's socket on the machine, where Testcontainers' own container looks for it.
const SOCKET: &str = "/var/run/docker.sock";
/// The mode in which Testcontainers looks for published ports where the daemon is.
const MODE: &str = "docker_host";

/// One variable and its new value; none: it is unset.
pub(crate) type Setting = (&'static str, Option<String>);

/// A variable that the user may look after as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Shared {
    /// Hosts that no proxy is asked for, as Go and others read it.
    #[serde(rename = "NO_PROXY")]
    NoProxy,
    /// The same, as curl, Python and others read it.
    #[serde(rename = "no_proxy")]
    NoProxyLower,
    /// Where Testcontainers looks for published ports.
    #[serde(rename = "TESTCONTAINERS_HOST_OVERRIDE")]
    TestcontainersHost,
    /// The daemon's socket as a container on its machine sees it.
    #[serde(rename = "TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE")]
    TestcontainersSocket,
    /// Whether Testcontainers for Python goes to published ports, or to the containers' own addresses.
    #[serde(rename = "TESTCONTAINERS_CONNECTION_MODE")]
    TestcontainersMode,
}

impl Shared {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [
        Self::NoProxy,
        Self::NoProxyLower,
        Self::TestcontainersHost,
        Self::TestcontainersSocket,
        Self::TestcontainersMode,
    ];

    /// The variable's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::NoProxy => "NO_PROXY",
            Self::NoProxyLower => "no_proxy",
            Self::TestcontainersHost => "TESTCONTAINERS_HOST_OVERRIDE",
            Self::TestcontainersSocket => "TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE",
            Self::TestcontainersMode => "TESTCONTAINERS_CONNECTION_MODE",
        }
    }
}

/// A change of a shared variable, as it is noted beside the keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    /// Which one.
    pub(crate) name: Shared,
    /// What it is while the lease lasts.
    pub(crate) to: String,
    /// What it was before; none if it was not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
}

/// The shared variables that would lead elsewhere than to this `docker_host` (`tcp://HOST:PORT`).
pub(crate) fn changes(docker_host: &str, environment: &Environment) -> Vec<Change> {
    let host = host_of(docker_host);
    let before = |name: Shared| environment.shared(name).map(str::to_owned);
    let mut changes = Vec::new();
    if environment.has_proxy {
        // A program that finds one of the two does not look at the other, so each gets all.
        for (name, twin) in [
            (Shared::NoProxy, Shared::NoProxyLower),
            (Shared::NoProxyLower, Shared::NoProxy),
        ] {
            let from = before(name);
            let list = from.clone().or_else(|| before(twin)).unwrap_or_default();
            if let Some(to) = with_host(&list, host) {
                changes.push(Change { name, to, from });
            }
        }
    }
    for (name, to) in [
        (Shared::TestcontainersHost, host),
        (Shared::TestcontainersSocket, SOCKET),
        (Shared::TestcontainersMode, MODE),
    ] {
        // Where there is none, every Testcontainers takes the right one from DOCKER_HOST; but in a container
        // the one for Python takes a daemon on loopback for one of that very container.
        let from = before(name);
        let misled = name == Shared::TestcontainersMode
            && from.is_none()
            && environment.in_container
            && is_loopback(host);
        if misled || from.as_ref().is_some_and(|from| from != to) {
            let to = to.to_owned();
            changes.push(Change { name, to, from });
        }
    }
    changes
}

/// Whether Testcontainers takes the host for the very machine that it runs on.
fn is_loopback(host: &str) -> bool {
    ["localhost", "127.0.0.1", "::1"].contains(&host)
}

/// What takes all of it back: the lease's own variables go, and what was changed is again as it was,
/// unless somebody else changed it since.
pub(crate) fn undo(changes: &[Change], environment: &Environment) -> Vec<Setting> {
    let own = OWN.map(|name| (name, None));
    let untouched = changes
        .iter()
        .filter(|change| environment.shared(change.name) == Some(change.to.as_str()))
        .map(|change| (change.name.name(), change.from.clone()));
    own.into_iter().chain(untouched).collect()
}

/// The host of a checked `tcp://HOST:PORT`, without the brackets of an IPv6 address.
fn host_of(docker_host: &str) -> &str {
    let authority = docker_host.strip_prefix("tcp://").unwrap_or(docker_host);
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// The list with the host added, unless it is in there.
fn with_host(list: &str, host: &str) -> Option<String> {
    let mut entries = list.split([',', ' ']).map(str::trim);
    if entries.any(|entry| entry == "*" || entry.eq_ignore_ascii_case(host)) {
        return None;
    }
    match list.trim().trim_end_matches(',') {
        "" => Some(host.to_owned()),
        list => Some(format!("{list},{host}")),
    }
}

#[cfg(test)]
mod tests;
