//! One lease in words.

use std::fmt::Write;

use remote_docker_api::{Egress, Lease, LeaseState};

use crate::progress::{step, to_go};

use super::{end_reason, moment, state, visible};

/// What is known about a lease, a line for each.
pub(crate) fn lease_text(lease: &Lease) -> String {
    let mut lines = vec![
        ("lease", lease.id.to_string()),
        ("state", state_in_words(lease)),
        ("engine", visible(&lease.engine, 100)),
        ("size", visible(&lease.size, 100)),
    ];
    if let Some(docker) = &lease.docker {
        lines.push(("docker host", visible(&docker.host, 300)));
    }
    lines.push(("asked for", moment(lease.created_at)));
    if let Some(at) = lease.ready_at {
        let how = if lease.warm { ", from stock" } else { "" };
        lines.push(("ready", moment(at) + how));
    }
    if !lease.timings.is_empty() {
        let steps = lease.timings.iter();
        let steps: Vec<_> = steps
            .map(|timing| format!("{} {} ms", visible(&timing.step, 40), timing.duration_ms))
            .collect();
        lines.push(("start", steps.join(", ")));
    }
    if let Some(at) = lease.expires_at {
        lines.push(("expires", moment(at)));
    }
    if let Some(seconds) = lease.keepalive_s {
        let due = lease.heartbeat_due_at;
        let due = due.map_or_else(String::new, |at| {
            format!("; the next is due at {}", moment(at))
        });
        lines.push(("heartbeats", format!("every {seconds} s at least{due}")));
    }
    if let Some(seconds) = lease.idle_s {
        lines.push(("idle", format!("given up after {seconds} s")));
    }
    if let Some(egress) = lease.egress {
        lines.push(("reaches", reaches(egress).to_owned()));
    }
    if let Some(at) = lease.ended_at {
        lines.push(("gone", moment(at)));
    }
    for warning in &lease.warnings {
        let words = warning.detail.as_deref();
        let words = visible(words.unwrap_or(warning.kind.as_str()), 400);
        lines.push(("warning", format!("{} {words}", moment(warning.at))));
    }
    for (name, value) in &lease.labels {
        let label = format!("{}={}", visible(name, 64), visible(value, 256));
        lines.push(("label", label));
    }
    lines.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name:11}  {value}");
        text
    })
}

fn reaches(egress: Egress) -> &'static str {
    match egress {
        Egress::Internet => "the public Internet (internet)",
        Egress::None => "nothing (none)",
        Egress::Open => "private networks too (open)",
    }
}

fn state_in_words(lease: &Lease) -> String {
    let state = state(lease.state);
    match (lease.state, &lease.queue) {
        (LeaseState::Waiting, Some(queue)) => {
            format!("{state}: {}{}", step(queue), to_go(queue))
        }
        (LeaseState::Ending | LeaseState::Ended, _) => {
            let why = end_reason(lease.end_reason);
            let more = lease.end_detail.as_ref();
            let more = more.map_or_else(String::new, |text| format!(" ({})", visible(text, 1000)));
            format!("{state}: {why}{more}")
        }
        _ => state.to_owned(),
    }
}
