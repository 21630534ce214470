//! Clients that wait: for too long, in vain, or not to the end.

use remote_docker_api::{EndReason, Lease, LeaseState};

use super::*;
use crate::lease::LeasePhase;

#[tokio::test]
async fn a_client_that_hangs_up_gives_its_lease_up() {
    let fixture = Fixture::new().await;
    let request = tokio::spawn(send(fixture.router.clone(), post(order(json!({})))));
    let row = fixture.lease_once(|_| true).await;
    assert!(row.attended);
    assert_eq!(row.wait_until, NOW + time::Duration::seconds(120));

    request.abort();
    let row = fixture.lease_once(|row| row.end_wish.is_some()).await;
    assert_eq!(row.end_wish, Some(EndReason::ClientGone));
}

#[tokio::test]
async fn a_client_that_hangs_up_while_another_program_holds_the_database_is_not_forgotten() {
    let fixture = Fixture::new().await;
    let request = tokio::spawn(send(fixture.router.clone(), post(order(json!({})))));
    fixture.lease_once(|_| true).await;
    let options =
        sqlx::sqlite::SqliteConnectOptions::new().filename(fixture.folder.path().join("state.db"));
    let mut other = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let held = sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await;
    held.unwrap();
    request.abort();
    let _ = request.await;
    // Handed over after the first attempt of the server, this write fails after it.
    let id = fixture.lease_once(|_| true).await.id;
    tokio::task::yield_now().await;
    let failed = fixture.api.store.heartbeat(id, NOW).await;
    assert!(failed.is_err(), "{failed:?}");
    let let_go = sqlx::raw_sql("ROLLBACK").execute(&mut other).await;
    let_go.unwrap();
    let row = fixture.lease_once(|row| row.end_wish.is_some()).await;
    assert_eq!(row.end_wish, Some(EndReason::ClientGone));
}

#[tokio::test]
async fn a_client_that_got_its_lease_may_hang_up() {
    let fixture = Fixture::new().await;
    let _running = fixture.reconciled();
    let lease: Lease = fixture.post(order(json!({}))).await.json();
    assert_eq!(lease.state, LeaseState::Active);
    fixture.api.background.close();
    fixture.api.background.wait().await;
    assert_eq!(fixture.lease_once(|_| true).await.end_wish, None);
}

#[tokio::test]
async fn no_machine_in_time_is_an_answer_that_says_why() {
    let fixture = Fixture::new().await;
    let pending = Check::Pending("is being built".to_owned());
    fixture.api.readiness.set("template 26/small", pending);
    let answer = fixture.post(order(json!({ "wait_s": 1 }))).await;
    let problem = answer.problem(503, ErrorCode::NoCapacity);
    assert_eq!(
        problem.detail,
        "no `small` machine with engine 26 became ready in time (template 26/small: is being built)"
    );
    assert_eq!(answer.header("retry-after"), "10");
    let row = fixture.lease_once(|_| true).await;
    assert_eq!(row.end_wish, Some(EndReason::WaitTimeout));
}

#[tokio::test]
async fn a_lease_that_ends_while_its_client_waits_is_told_at_once() {
    for (reason, words) in [
        (EndReason::WaitTimeout, "became ready in time"),
        (EndReason::Released, "was given back while it waited"),
        (EndReason::VmLost, "ended while it waited"),
    ] {
        let fixture = Fixture::new().await;
        let request = fixture.post(order(json!({ "wait_s": 600 })));
        let end = async {
            let row = fixture.lease_once(|_| true).await;
            let store = &fixture.api.store;
            store
                .end_lease(&row, reason, None, NOW)
                .await
                .unwrap()
                .unwrap();
        };
        let (answer, ()) = tokio::join!(request, end);
        let problem = answer.problem(503, ErrorCode::NoCapacity);
        assert!(problem.detail.contains(words), "{problem:?}");
    }
}

#[tokio::test]
async fn a_server_that_stops_lets_nobody_wait() {
    let fixture = Fixture::new().await;
    let request = fixture.post(order(json!({ "wait_s": 600 })));
    let stop = async {
        fixture.lease_once(|_| true).await;
        fixture.api.stopping.cancel();
    };
    let (answer, ()) = tokio::join!(request, stop);
    answer.problem(503, ErrorCode::NotReady);
    let row = fixture.lease_once(|row| row.end_wish.is_some()).await;
    assert_eq!(row.end_wish, Some(EndReason::ClientGone));

    // The next one is not even written down.
    let next = fixture.post(order(json!({ "wait_s": 600 }))).await;
    next.problem(503, ErrorCode::NotReady);
    assert_eq!(fixture.lease_once(|_| true).await.id, row.id);
}

#[tokio::test]
async fn a_part_that_failed_is_told_before_anything_is_written() {
    let fixture = Fixture::new().await;
    let failed = Check::Failed("libvirt cannot be loaded".to_owned());
    fixture.api.readiness.set("hypervisor", failed);
    let answer = fixture.post(order(json!({}))).await;
    let problem = answer.problem(503, ErrorCode::NotReady);
    assert!(
        problem
            .detail
            .contains("hypervisor: libvirt cannot be loaded"),
        "{problem:?}"
    );
    assert_eq!(answer.header("retry-after"), "10");
    fixture.assert_no_lease().await;
}

#[tokio::test]
async fn following_a_lease_ends_with_its_time() {
    let fixture = Fixture::new().await;
    let answer = fixture.post(order(json!({ "wait_s": 0 }))).await;
    let path = answer.header("location").to_owned();
    let same: Lease = fixture.get(&format!("{path}?wait_s=1")).await.json();
    assert_eq!(same, answer.json());

    for query in ["wait_s=-1", "wait_s=601"] {
        let answer = fixture.get(&format!("{path}?{query}")).await;
        answer.problem(422, ErrorCode::InvalidWait);
    }
    for query in ["wait_s=soon", "wait=1", "wait_s=1&wait_s=2", "wait_s="] {
        let answer = fixture.get(&format!("{path}?{query}")).await;
        answer.problem(400, ErrorCode::InvalidWait);
    }
    let row = fixture.lease_once(|_| true).await;
    assert_eq!(row.phase, LeasePhase::Waiting);
}

#[tokio::test]
async fn a_database_that_another_program_holds_is_told_with_when_to_try_again() {
    let fixture = Fixture::new().await;
    let path = fixture.folder.path().join("state.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let mut other = sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let answer = fixture.post(order(json!({ "wait_s": 0 }))).await;
    let problem = answer.problem(503, ErrorCode::NotReady);
    assert!(problem.hint.is_some() && problem.detail.contains("another program"));
    assert!(answer.header("retry-after").parse::<u64>().unwrap() > 0);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    let answer = fixture.post(order(json!({ "wait_s": 0 }))).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
}
