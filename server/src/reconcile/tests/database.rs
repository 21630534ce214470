//! A database that fails and works again.

use remote_docker_api::EndReason;

use super::bench::{Ask, Bench};
use crate::lease::LeasePhase;
use crate::reconcile::Trouble;
use crate::store::StoreError;

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

#[tokio::test]
async fn another_that_writes_for_too_long_is_told_of_and_what_was_due_is_done_after_it() {
    let mut bench = Bench::started().await;
    let (given_back, expires) = (bench.ask().await, bench.ask_for(60).await);
    bench.active(given_back).await;
    bench.active(expires).await;
    let mut other = bench.another_connection().await;
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    bench.pass_unseen(60);
    // The client is told, so that it may try again.
    let wish = bench.store.wish_end(given_back, EndReason::Released).await;
    assert!(matches!(wish, Err(StoreError::Locked(_))), "{wish:?}");
    bench
        .eventually("the status says so", |bench| {
            bench.status().troubles.contains_key(&Trouble::Database)
        })
        .await;
    for lease in [given_back, expires] {
        let phase = bench.lease(lease).await.phase;
        assert!(matches!(phase, LeasePhase::Active(_)), "{phase:?}");
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(bench.ended(expires).await, EndReason::Expired);
    bench.release(given_back).await;
    assert_eq!(bench.ended(given_back).await, EndReason::Released);
    bench
        .eventually("nothing is wrong any more", |bench| {
            bench.status().is_healthy() && bench.status().troubles.is_empty()
        })
        .await;
    bench.clean().await;
}

#[tokio::test]
async fn a_heartbeat_that_cannot_be_written_is_no_silence() {
    let mut bench = Bench::started().await;
    let lease = bench
        .ask_with(Ask {
            keepalive_s: Some(60),
            ..Ask::default()
        })
        .await;
    bench.active(lease).await;
    let mut other = bench.another_connection().await;
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    bench.pass_unseen(59);
    let beat = bench.store.heartbeat(lease, bench.now()).await;
    assert!(matches!(beat, Err(StoreError::Locked(_))), "{beat:?}");
    bench.pass_unseen(2);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    bench.goes_round().await;
    assert!(bench.is_active(lease).await);
    // From then on it counts.
    bench.pass(57).await;
    bench.goes_round().await;
    assert!(bench.is_active(lease).await);
    bench.pass(1).await;
    assert_eq!(bench.ended(lease).await, EndReason::KeepaliveMissed);
    bench.clean().await;
}
