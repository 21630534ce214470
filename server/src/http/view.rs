//! Leases as the API shows them.

use remote_docker_api::{DockerEndpoint, Lease, LeaseState, Queue, SshEndpoint};
use sha2::{Digest, Sha256};
use time::Duration;

use crate::lease::{Grant, LeaseEnd, LeasePhase, LeaseRow};

/// The lease on the wire. `relay_host` is the relay's name or address as clients know it; `queue` is
/// where it stands if it waits. Rows have server time, clients are told moments in wall time, which is
/// `ahead` of it.
pub(super) fn lease(
    row: LeaseRow,
    relay_host: &str,
    queue: Option<Queue>,
    ahead: Duration,
) -> Lease {
    let mut view = Lease {
        id: row.id,
        state: LeaseState::Waiting,
        engine: row.key.engine,
        size: row.key.size,
        ttl_s: row.ttl_s.into(),
        labels: row.labels,
        created_at: row.created_at,
        ready_at: None,
        expires_at: None,
        ended_at: None,
        end_reason: row.end_wish,
        end_detail: None,
        keepalive_s: row.keepalive_s.map(u64::from),
        heartbeat_due_at: None,
        idle_s: row.idle_s.map(u64::from),
        egress: Some(row.egress),
        queue: None,
        csr_sha256: None,
        warm: false,
        docker: None,
        ssh: None,
        timings: Vec::new(),
        warnings: Vec::new(),
        token: None,
    };
    match row.phase {
        LeasePhase::Waiting => {
            view.queue = queue;
            view.csr_sha256 = Some(sha256(&row.client_csr_pem));
        }
        LeasePhase::Active(grant) => {
            view.state = LeaseState::Active;
            active(&mut view, *grant, relay_host);
        }
        LeasePhase::Ending { end, .. } => {
            view.state = LeaseState::Ending;
            ended(&mut view, &end);
        }
        LeasePhase::Ended { end, ended_at } => {
            view.state = LeaseState::Ended;
            view.ended_at = Some(ended_at);
            ended(&mut view, &end);
        }
    }
    // Whoever gave it back need not know that the reconciler has not come round yet.
    if row.end_wish.is_some() && view.state != LeaseState::Ended {
        view.state = LeaseState::Ending;
        view.docker = None;
        view.ssh = None;
        view.heartbeat_due_at = None;
        view.queue = None;
        view.csr_sha256 = None;
    }
    view.created_at = view.created_at.saturating_add(ahead);
    for moment in [
        &mut view.ready_at,
        &mut view.expires_at,
        &mut view.ended_at,
        &mut view.heartbeat_due_at,
    ] {
        *moment = moment.map(|moment| moment.saturating_add(ahead));
    }
    view
}

fn sha256(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn active(view: &mut Lease, grant: Grant, relay_host: &str) {
    view.ready_at = Some(grant.ready_at);
    view.expires_at = Some(grant.expires_at);
    view.heartbeat_due_at = view
        .keepalive_s
        .and_then(|s| Duration::try_from(std::time::Duration::from_secs(s)).ok())
        .and_then(|silence| grant.heartbeat_at.checked_add(silence));
    view.warm = grant.warm;
    view.timings = grant.timings;
    view.docker = Some(DockerEndpoint {
        host: docker_host(relay_host, grant.port),
        ca_pem: grant.ca_pem,
        cert_pem: grant.cert_pem,
    });
    view.ssh = grant.ssh_host_key.map(|host_key| SshEndpoint {
        alpn: String::from_utf8_lossy(guest_protocol::SSH_ALPN).into_owned(),
        user: "root".to_owned(),
        host_key,
    });
}

fn ended(view: &mut Lease, end: &LeaseEnd) {
    view.end_reason = Some(end.reason);
    view.end_detail.clone_from(&end.detail);
    view.ready_at = end.ready_at;
    view.expires_at = end.expires_at;
}

fn docker_host(host: &str, port: u16) -> String {
    // An IPv6 address needs brackets, or its end would read as the port.
    if host.contains(':') {
        format!("tcp://[{host}]:{port}")
    } else {
        format!("tcp://{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::docker_host;

    #[test]
    fn docker_can_connect_to_what_it_is_told() {
        assert_eq!(docker_host("127.0.0.1", 1), "tcp://127.0.0.1:1");
        assert_eq!(docker_host("fd00::1", 2), "tcp://[fd00::1]:2");
        assert_eq!(docker_host("build.example", 3), "tcp://build.example:3");
    }
}
