//! What a project may hold at a time.

use remote_docker_api::{Doing, Egress, EndReason};

use super::bench::{Ask, Bench};
use crate::lease::Quota;

fn ask() -> Ask {
    Ask {
        ttl_s: 3600,
        keepalive_s: None,
        idle_s: None,
        egress: Egress::Internet,
        attended: false,
    }
}

#[tokio::test]
async fn a_lease_beyond_the_quota_waits_for_its_own_project_and_nobody_waits_for_it() {
    let mut bench = Bench::new().await;
    let quota = Quota {
        max_leases: Some(1),
        max_memory_mib: None,
    };
    bench.settings.policy.quotas.insert("web".to_owned(), quota);
    bench.start().await;
    let first = bench.ask_as("web", ask()).await;
    bench.active(first).await;
    let second = bench.ask_as("web", ask()).await;
    let other = bench.ask_as("api", ask()).await;
    bench.active(other).await;
    let says_why = |bench: &Bench| {
        let outlook = bench.outlook();
        outlook
            .get(&second)
            .is_some_and(|queue| queue.doing == Doing::Quota)
    };
    bench.eventually("it waits for its quota", says_why).await;
    assert!(!bench.is_active(second).await);

    // The limit outlives the server, and so do the leases that count.
    bench.crash().await;
    bench.start().await;
    bench.goes_round().await;
    assert!(!bench.is_active(second).await);

    bench.release(first).await;
    assert_eq!(bench.ended(first).await, EndReason::Released);
    bench.active(second).await;
}
