//! Damaged rows, wrong files, full disks: clear errors, and nothing lost.

use std::error::Error;
use std::time::Duration as StdDuration;

use sqlx::Row as _;

use super::*;
use crate::store::StoreError;
use crate::store::opening::Opening;
use crate::store::writer::{Change, Operation};

#[tokio::test]
async fn a_damaged_row_is_named_and_never_guessed_at() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    let (lease, vm) = active(&store, 1, 20_000).await;
    let good = store.snapshot().await.unwrap();
    // Column, value, what the error must say.
    let vm_damage = [
        ("state", "'asleep'", "`asleep`, which is unknown"),
        ("state", "x'ff00'", "state"),
        ("state", "'destroying'", "`reason` is missing"),
        ("generation", "'many'", "generation"),
        ("memory_mib", "-1", "`memory_mib` is -1, out of range"),
        ("memory_mib", "5000000000", "out of range"),
        ("slot", "65536", "`slot` is 65536, out of range"),
        ("phase_since", "9223372036854775807", "which is no time"),
        ("phase_since", "'yesterday'", "phase_since"),
        ("lease_id", "NULL", "`lease_id` is missing"),
        ("lease_id", "'l-rubbish'", "`l-rubbish` is not a lease id"),
        ("engine", "x'ff'", "engine"),
    ];
    let lease_damage = [
        ("state", "''", "unknown"),
        ("state", "'ended'", "`end_reason` is missing"),
        ("state", "'ending'", "`end_reason` is missing"),
        ("vm_id", "NULL", "`vm_id` is missing"),
        ("port", "0.5", "port"),
        ("port", "NULL", "`port` is missing"),
        ("port", "65536", "`port` is 65536, out of range"),
        ("ttl_s", "-5", "`ttl_s` is -5, out of range"),
        ("labels", "'{'", "`labels`: EOF"),
        ("labels", "'[]'", "`labels`: invalid type"),
        ("timings", "'{}'", "`timings`: invalid type"),
        ("attended", "'maybe'", "attended"),
        ("end_wish", "'bored'", "`bored`, which is unknown"),
        ("ready_at", "NULL", "`ready_at` is missing"),
        ("cert_pem", "NULL", "`cert_pem` is missing"),
        ("created_at", "-9223372036854775808", "which is no time"),
    ];
    let lease_id = lease.id.to_string();
    let vm_id = vm.to_string();
    let all = (vm_damage.iter().map(|damage| ("vms", &vm_id, damage))).chain(
        lease_damage
            .iter()
            .map(|damage| ("leases", &lease_id, damage)),
    );
    for (table, id, (column, value, says)) in all {
        let mut tx = store.pool.begin().await.unwrap();
        sqlx::query(&format!("CREATE TABLE kept AS SELECT * FROM {table}"))
            .execute(&mut *tx)
            .await
            .unwrap();
        let damage = format!("UPDATE {table} SET {column} = {value}");
        sqlx::query(&damage).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        let error = match table {
            "vms" => store.vm(vm).await.unwrap_err(),
            _ => store.lease(lease.id).await.unwrap_err(),
        };
        let StoreError::Corrupt {
            table: named,
            id: of,
            what,
        } = &error
        else {
            panic!("{damage}: {error:?}");
        };
        assert_eq!((*named, of), (table, id), "{damage}");
        assert!(what.contains(says), "{damage}: {what}");
        let repair = format!("UPDATE {table} SET {column} = (SELECT {column} FROM kept)");
        sqlx::query(&repair).execute(&store.pool).await.unwrap();
        sqlx::query("DROP TABLE kept")
            .execute(&store.pool)
            .await
            .unwrap();
        assert_eq!(store.snapshot().await.unwrap(), good, "{damage}");
    }
}

#[tokio::test]
async fn a_damaged_row_that_the_writer_meets_is_named_and_left_as_it_was() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    let (lease, _) = active(&store, 1, 20_000).await;
    // Column, value, what the error must say.
    let damage = [
        ("labels", "'{'", "`labels`: EOF"),
        ("port", "0.5", "`port` is of the kind Real"),
        ("project", "x'ff'", "`project` is of the kind Blob"),
        ("vm_id", "NULL", "`vm_id` is missing"),
        ("egress", "'all'", "`all`, which is unknown"),
    ];
    for (column, value, says) in damage {
        let kept = "CREATE TABLE kept AS SELECT * FROM leases";
        sqlx::query(kept).execute(&store.pool).await.unwrap();
        let damage = format!("UPDATE leases SET {column} = {value}");
        sqlx::query(&damage).execute(&store.pool).await.unwrap();
        let released = remote_docker_api::EndReason::Released;
        let error = store.wish_end(lease.id, released).await.unwrap_err();
        let StoreError::Corrupt { table, id, what } = &error else {
            panic!("{damage}: {error:?}");
        };
        assert_eq!((*table, id), ("leases", &lease.id.to_string()), "{damage}");
        assert!(what.contains(says), "{damage}: {what}");
        let repair = format!("UPDATE leases SET {column} = (SELECT {column} FROM kept)");
        sqlx::query(&repair).execute(&store.pool).await.unwrap();
        let drop = "DROP TABLE kept";
        sqlx::query(drop).execute(&store.pool).await.unwrap();
        // Nothing was written of the wish.
        let row = store.lease(lease.id).await.unwrap().unwrap();
        assert_eq!(row, lease, "{damage}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let text =
        b"this is somebody's letter, long enough to be read as the header of a file ".repeat(99);
    std::fs::write(&path, &text).unwrap();
    let error = Store::open(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::NotADatabase(_)), "{error:?}");
    assert_eq!(std::fs::read(&path).unwrap(), text);
}

#[tokio::test]
async fn a_newer_database_is_left_to_the_newer_server() {
    let Fixture { store, folder } = Fixture::new().await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (999, 'later', TRUE, x'00', 0)",
    )
    .execute(&store.pool)
    .await
    .unwrap();
    let error = Store::open(&folder.path().join("state.db"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, StoreError::Newer { version: 999 }),
        "{error:?}"
    );
}

#[tokio::test]
async fn tables_that_were_changed_by_hand_are_refused() {
    let Fixture { store, folder } = Fixture::new().await;
    sqlx::query("UPDATE _sqlx_migrations SET checksum = x'00'")
        .execute(&store.pool)
        .await
        .unwrap();
    let error = Store::open(&folder.path().join("state.db"))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Schema(_)), "{error:?}");
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_said_to_be_the_trouble() {
    let folder = tempfile::tempdir().unwrap();
    let error = Store::open(&folder.path().join("missing/state.db")).await;
    let error = error.unwrap_err();
    assert!(matches!(error, StoreError::Open(_)), "{error:?}");
    let source = error.source().unwrap().to_string();
    assert!(!error.to_string().contains(&source), "{error} / {source}");
}

#[tokio::test]
async fn a_file_that_may_not_be_written_is_said_to_be_the_trouble() {
    let Fixture { store, folder } = Fixture::new().await;
    store.close().await;
    let path = folder.path().join("state.db");
    let store = Store::open_with(Opening::new(&path).read_only()).await;
    let error = store.unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly(_)), "{error:?}");
}

#[tokio::test]
async fn another_that_writes_for_too_long_is_reported() {
    let Fixture { store, folder } = Fixture::new().await;
    let path = folder.path().join("state.db");
    let impatient = Opening::new(&path).impatient(StdDuration::from_millis(50));
    let other = Store::open_with(impatient).await.unwrap();
    let held = store.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let error = other.insert_lease(&new_lease(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Locked(_)), "{error:?}");
    // Readers are not in the way of a writer, nor it in theirs.
    assert_eq!(other.live_leases().await.unwrap(), []);
    drop(held);
    insert(&other, &new_lease(1)).await;
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_leases_can_still_end() {
    let Fixture { store, folder } = Fixture::new().await;
    store.close().await;
    let path = folder.path().join("state.db");
    let small = Opening::new(&path).with_most_pages(40);
    let store = Store::open_with(small).await.unwrap();
    let (lease, _) = active(&store, 1, 20_000).await;
    let mut written = 1;
    let error = loop {
        let bulky = NewLease {
            client_csr_pem: "x".repeat(3000),
            ..new_lease(1 + written)
        };
        match store.insert_lease(&bulky).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "the disk never fills");
    };
    assert!(matches!(error, StoreError::DiskFull(_)), "{error:?}");
    assert_eq!(store.live_leases().await.unwrap().len() as u64, written);
    // What frees space takes none: rows are changed in place.
    let ended = store
        .end_lease(&lease, remote_docker_api::EndReason::Released, None, at(5))
        .await;
    assert!(ended.unwrap().is_some());
    store.close().await;
    let store = Store::open(&path).await.unwrap();
    assert_eq!(store.live_leases().await.unwrap().len() as u64, written);
    insert(&store, &new_lease(5000)).await;
}

/// The folder is a small file system of the test's own.
#[test]
fn a_disk_without_a_byte_left_lets_everything_end() {
    assert!(nix::unistd::geteuid().is_root(), "run the tests as root");
    let folder = tempfile::tempdir().unwrap();
    let runs = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime
            .unwrap()
            .block_on(end_all_on_a_full_disk(folder.path()));
    };
    // Threads that SQLite starts see what the one sees that asked for them.
    std::thread::scope(|scope| scope.spawn(runs).join()).unwrap();
}

async fn end_all_on_a_full_disk(folder: &std::path::Path) {
    use nix::mount::{MsFlags, mount};
    let none: Option<&str> = None;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let (plain, size) = (MsFlags::empty(), Some("size=64m"));
    mount(Some("none"), folder, Some("tmpfs"), plain, size).unwrap();

    let store = Store::open(&folder.join("state.db")).await.unwrap();
    let mut held = Vec::new();
    for id in 1..=200 {
        held.push(active(&store, id, 20_000 + u16::try_from(id).unwrap()).await);
    }
    // The pages of the log are all in use once, so that it is what grows.
    // Another may be at it, which takes the log in as well.
    let truncated = async || -> bool {
        let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&store.pool);
        row.await.unwrap().get::<i64, _>(0) == 0
    };
    while !truncated().await {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    store.prune(at(-1000)).await.unwrap();
    let mut filler = std::fs::File::create(folder.join("filler")).unwrap();
    let full = std::io::copy(&mut std::io::repeat(7), &mut filler).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    std::fs::write(folder.join("another"), b"x").unwrap_err();

    for (lease, vm) in held {
        let lease = store
            .end_lease(&lease, remote_docker_api::EndReason::DiskFull, None, at(5))
            .await
            .unwrap()
            .unwrap();
        let row = store.vm(vm).await.unwrap().unwrap();
        let VmPhase::Destroying { reason } = row.phase else {
            panic!("{row:?}");
        };
        let gone = store.advance_vm(&row, VmPhase::Gone { reason }, at(6));
        assert!(gone.await.unwrap().is_some());
        assert!(store.finish_lease(&lease, at(7)).await.unwrap().is_some());
    }
    assert!(store.prune(at(1000)).await.unwrap() >= 400);
    store.close().await;
}

/// A really full disk makes SQLite end the transaction by itself, which is imitated here.
struct EndedBySqlite;

impl Operation for EndedBySqlite {
    type Answer = ();

    fn run(&self, change: &mut Change<'_>) -> Result<(), StoreError> {
        change.line.execute("ROLLBACK", &[])?;
        Err(StoreError::AssignedAlone)
    }
}

#[tokio::test]
async fn a_transaction_that_sqlite_ended_itself_is_not_in_the_way_of_the_next() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    for id in 1..5 {
        let error = store.write(EndedBySqlite).await.unwrap_err();
        assert!(matches!(error, StoreError::AssignedAlone), "{error:?}");
        insert(&store, &new_lease(id)).await;
    }
}
