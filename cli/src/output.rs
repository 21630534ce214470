//! What is printed, as text: no I/O here.
//!
//! Whatever came from the server may be hostile: a shell evaluates what `start` prints, and a
//! terminal obeys the control characters that it is sent.

use std::fmt::Write;

use remote_docker_api::{EndReason, Lease, LeaseId, LeaseList, LeaseState, is_dangerous};
use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use crate::exports::{self, Change, Setting};

mod lease;

pub(crate) use lease::lease_text;

/// A lease that is ready for use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ready<'a> {
    pub(crate) lease: &'a Lease,
    /// Checked value for `DOCKER_HOST`.
    pub(crate) docker_host: &'a str,
    /// The folder with the TLS material.
    pub(crate) cert_path: &'a str,
    /// Variables beside the lease's own that must be others.
    pub(crate) changes: &'a [Change],
}

impl Ready<'_> {
    /// The variables and their values.
    pub(crate) fn settings(&self) -> Vec<Setting> {
        let values = [
            self.docker_host.to_owned(),
            "1".to_owned(),
            self.cert_path.to_owned(),
            self.lease.id.to_string(),
        ];
        let own = exports::OWN
            .into_iter()
            .zip(values)
            .map(|(name, value)| (name, Some(value)));
        let shared = self.changes.iter();
        own.chain(shared.map(|change| (change.name.name(), Some(change.to.clone()))))
            .collect()
    }

    /// One JSON object on one line.
    pub(crate) fn json(&self) -> String {
        #[derive(Serialize)]
        struct Document<'a> {
            lease_id: LeaseId,
            docker_host: &'a str,
            docker_tls_verify: &'a str,
            docker_cert_path: &'a str,
            engine: &'a str,
            size: &'a str,
            warm: bool,
            #[serde(with = "time::serde::rfc3339::option")]
            ready_at: Option<OffsetDateTime>,
            #[serde(with = "time::serde::rfc3339::option")]
            expires_at: Option<OffsetDateTime>,
            environment: Map<String, Value>,
        }
        json_line(&Document {
            lease_id: self.lease.id,
            docker_host: self.docker_host,
            docker_tls_verify: "1",
            docker_cert_path: self.cert_path,
            engine: &self.lease.engine,
            size: &self.lease.size,
            warm: self.lease.warm,
            ready_at: self.lease.ready_at,
            expires_at: self.lease.expires_at,
            environment: exports::object(&self.settings()),
        })
    }
}

/// What `stop` tells a program: the variables that are to be as they were, null for those that were
/// not set.
pub(crate) fn stopped_json(lease: LeaseId, settings: &[Setting]) -> String {
    #[derive(Serialize)]
    struct Document {
        lease_id: LeaseId,
        environment: Map<String, Value>,
    }
    json_line(&Document {
        lease_id: lease,
        environment: exports::object(settings),
    })
}

/// Quotes for a POSIX shell; nothing inside single quotes has a meaning but the quote itself.
pub(crate) fn sh_quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A value for `DOCKER_HOST` is `tcp://HOST:PORT` and nothing more.
pub(crate) fn is_docker_host(text: &str) -> bool {
    host_and_port(text).is_some()
}

/// The two parts of a value for `DOCKER_HOST`; an IPv6 address without its brackets.
pub(crate) fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.strip_prefix("tcp://")?.rsplit_once(':')?;
    let port = Some(port)
        .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|port| port.parse().ok())
        .filter(|port| *port != 0)?;
    let bracketed = host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'));
    let host_fits = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            (1..=253).contains(&host.len())
                && !host.starts_with('-')
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        }
    };
    host_fits.then(|| (bracketed.unwrap_or(host), port))
}

/// The leases in columns.
pub(crate) fn table(list: &LeaseList) -> String {
    let heading = [
        "LEASE",
        "STATE",
        "ENGINE",
        "SIZE",
        "DOCKER HOST",
        "EXPIRES",
        "LABELS",
    ];
    let mut rows = vec![heading.map(str::to_owned)];
    rows.extend(list.leases.iter().map(|lease| {
        let labels: Vec<_> = lease
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let host = lease.docker.as_ref().map_or("-", |docker| &docker.host);
        [
            lease.id.to_string(),
            state(lease.state).to_owned(),
            visible(&lease.engine, 30),
            visible(&lease.size, 30),
            visible(host, 60),
            lease.expires_at.map_or_else(|| "-".to_owned(), moment),
            visible(&labels.join(","), 200),
        ]
    }));
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    rows.iter().fold(String::new(), |mut text, row| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
        text
    })
}

/// A moment for people: `2026-01-31 12:00:00 UTC`.
pub(crate) fn moment(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    at.format(format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second] UTC"
    ))
    .or_else(|_| at.format(&Rfc3339))
    .unwrap_or_else(|_| "-".to_owned())
}

/// Why a lease is over, as the end of a sentence.
pub(crate) fn end_reason(reason: Option<EndReason>) -> &'static str {
    match reason {
        Some(EndReason::Released) => "it was given back",
        Some(EndReason::Expired) => "its time is over",
        Some(EndReason::VmLost) => "its machine was lost",
        Some(EndReason::DiskFull) => "its machine wrote more than the host's disk can hold",
        Some(EndReason::ClientGone) => "the server took its client for gone",
        Some(EndReason::WaitTimeout) => "no machine became ready in time",
        Some(EndReason::StartFailed) => "machine after machine failed to become ready",
        Some(EndReason::KeepaliveMissed) => "no heartbeat of its holder came in time",
        Some(EndReason::Idle) => "nothing happened on it for as long as was agreed",
        Some(EndReason::Drained) => "the server gave up its machines",
        None => "the reason is not known",
    }
}

fn state(state: LeaseState) -> &'static str {
    match state {
        LeaseState::Waiting => "waiting",
        LeaseState::Active => "active",
        LeaseState::Ending => "ending",
        LeaseState::Ended => "ended",
        _ => "unknown",
    }
}

/// `text` with everything that a terminal would obey, or that would break the line, made visible,
/// and cut after `limit` characters.
pub(crate) fn visible(text: &str, limit: usize) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == limit {
            shown.push('…');
            break;
        }
        if is_dangerous(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// `value` as JSON on one line, which no terminal obeys.
pub(crate) fn json_line(value: &impl Serialize) -> String {
    // The types here are structs and lists with text keys, which always can be written.
    let json = serde_json::to_string(value).unwrap_or_default();
    // serde_json escapes what JSON demands; terminals obey a few characters more. Outside of
    // strings JSON is plain ASCII, so the replacement touches text only.
    let mut line = String::with_capacity(json.len() + 1);
    for character in json.chars() {
        if is_dangerous(character) {
            let _ = write!(line, "\\u{:04x}", u32::from(character));
        } else {
            line.push(character);
        }
    }
    line.push('\n');
    line
}

/// A text of many lines as [`visible`] shows each; tabs stay what they are.
pub(crate) fn visible_lines(text: &str) -> String {
    text.lines().fold(String::new(), |mut shown, line| {
        let cells: Vec<_> = line.split('\t').map(|cell| visible(cell, 4000)).collect();
        let _ = writeln!(shown, "{}", cells.join("\t"));
        shown
    })
}

#[cfg(test)]
mod tests;
