//! A database that fails and works again.

use super::bench::Bench;
use crate::lease::LeasePhase;
use crate::reconcile::Trouble;

#[tokio::test]
async fn a_database_that_fails_is_told_and_forgotten_when_it_works_again() {
    let mut bench = Bench::started().await;
    let lease = bench.ask().await;
    let grant = bench.active(lease).await;
    assert!(bench.status().is_healthy());
    bench.sql("ALTER TABLE leases RENAME TO away").await;
    bench
        .eventually("the status says so", |bench| {
            bench.status().troubles.contains_key(&Trouble::Database)
        })
        .await;
    assert!(!bench.status().is_healthy());
    bench.sql("ALTER TABLE away RENAME TO leases").await;
    bench
        .eventually("the status says so no more", |bench| {
            bench.status().is_healthy() && bench.status().troubles.is_empty()
        })
        .await;
    let phase = bench.lease(lease).await.phase;
    assert_eq!(phase, LeasePhase::Active(Box::new(grant)));
}
