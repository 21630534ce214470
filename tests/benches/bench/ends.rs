//! How leases end.

use std::time::Duration;

use e2e::TestServer;
use e2e::process::Watched;
use nix::unistd::Pid;
use remote_docker_api::LeaseState;

/// Enough for anything on a machine that does other things too.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// How long a lease may last that is to expire, in seconds.
const SHORT_S: i64 = 3;

/// From the moment at which a lease expires until its machine has gone.
#[expect(
    clippy::disallowed_methods,
    reason = "the server says when a lease expires by the same clock"
)]
pub(crate) fn expiry(server: &TestServer) -> Duration {
    let lease = server.lease_for(SHORT_S);
    let process = Watched::open(the_machine(server));
    process.wait_gone(LIMIT);
    let gone = std::time::SystemTime::now();
    let expired = lease.lease.expires_at.expect("an active lease").into();
    let late = gone.duration_since(expired).expect("not before its time");
    server.wait_state(lease.id(), LeaseState::Ended);
    late
}

/// The process of the only machine there is.
pub(crate) fn the_machine(server: &TestServer) -> Pid {
    let machines = server.host().machines();
    assert_eq!(machines.len(), 1, "one machine");
    machines[0]
}
