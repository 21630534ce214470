//! Writes that share a transaction, and who is told of them.

use std::time::Duration as StdDuration;

use futures_util::future::join_all;
use remote_docker_api::EndReason;

use nix::sys::resource::{UsageWho, getrusage};

use super::*;
use crate::store::writer::{Change, Operation};
use crate::store::{Changes, StoreError, Wish};

/// Long enough for whatever happens at all.
const FAR: StdDuration = StdDuration::from_secs(120);

/// Writes something and fails then.
struct Fails(u64);

impl Operation for Fails {
    type Answer = ();

    fn run(&self, change: &mut Change<'_>) -> Result<(), StoreError> {
        let id = LeaseId::from_bits(self.0).to_string();
        let sql = "UPDATE leases SET end_wish = 'expired' WHERE id = $1";
        let done = change.line.execute(sql, rusqlite::params![id])?;
        assert_eq!(done, 1);
        change.wrote();
        Err(StoreError::AssignedAlone)
    }
}

#[tokio::test]
async fn one_that_fails_takes_nobody_with_it_and_leaves_nothing_behind() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    insert(&store, &new_lease(1)).await;
    // They wait together, as the writer has not run yet.
    let fails = async |id| match id % 2 {
        0 => store.write(Fails(1)).await.is_err(),
        _ => {
            insert(&store, &new_lease(id)).await;
            false
        }
    };
    let failed = join_all((10..20).map(fails)).await;
    assert_eq!(failed, [true, false].repeat(5));
    let leases = store.live_leases().await.unwrap();
    assert_eq!(leases.len(), 6);
    assert!(leases.iter().all(|lease| lease.end_wish.is_none()));
}

#[tokio::test]
async fn all_of_those_that_wait_together_share_a_commit() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    insert(&store, &new_lease(99)).await;
    let commits = store.changes();
    let before = *commits.borrow();
    let leases: Vec<_> = (1..=20).map(new_lease).collect();
    let (go, held) = std::sync::mpsc::channel();
    let ((), _, ()) = tokio::join!(
        async { store.write(Holds(held.into())).await.unwrap() },
        join_all(leases.iter().map(|new| insert(&store, new))),
        async { go.send(()).unwrap() },
    );
    // The one that holds the writer may have taken the first of them with it.
    let count = *commits.borrow() - before;
    assert!(count <= 2, "{count} commits for 20 leases");
}

#[tokio::test]
async fn what_was_handed_over_is_written_although_its_caller_goes_away() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    let lease = insert(&store, &new_lease(1)).await;
    {
        let wish = store.wish_end(lease.id, EndReason::Released);
        tokio::pin!(wish);
        // As far as the desk. A writer that is quick has answered by now, which is as well.
        let _ = futures_util::poll!(wish.as_mut());
    }
    let after = store.wish_end(lease.id, EndReason::Expired).await.unwrap();
    assert_eq!(after, Wish::AlreadyEnding);
    let row = store.lease(lease.id).await.unwrap().unwrap();
    assert_eq!(row.end_wish, Some(EndReason::Released));
}

#[tokio::test]
async fn what_was_handed_over_before_the_store_is_closed_is_written() {
    let fixture = Fixture::new().await;
    let leases: Vec<_> = (1..=20).map(new_lease).collect();
    let writes = join_all(leases.iter().map(|new| fixture.store.insert_lease(new)));
    let (written, ()) = tokio::join!(writes, fixture.store.close());
    assert!(written.iter().all(Result::is_ok), "{written:?}");
    let late = fixture.store.insert_lease(&new_lease(99)).await;
    assert!(matches!(late, Err(StoreError::Closed)), "{late:?}");
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.store.live_leases().await.unwrap().len(), 20);
}

/// The ids of the rows that are told to have changed.
fn told(changes: Changes) -> (Vec<VmId>, Vec<LeaseId>) {
    let Changes::These { vms, leases } = changes else {
        panic!("all is told: {changes:?}");
    };
    let vms = vms.iter().map(|vm| vm.id).collect();
    (vms, leases.iter().map(|lease| lease.id).collect())
}

#[tokio::test]
async fn a_follower_is_told_all_at_first_and_then_what_changes() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    let (one, vm) = active(&store, 1, 20_000).await;
    let mut follower = store.follow();
    let Changes::All(rows) = follower.catch_up(&store).await.unwrap() else {
        panic!("not all is told");
    };
    assert_eq!(rows, store.rows().await.unwrap());
    assert_eq!(rows.ports, [(one.id, 20_000)]);
    assert_eq!(
        told(follower.catch_up(&store).await.unwrap()),
        (vec![], vec![])
    );

    let two = insert(&store, &new_lease(2)).await;
    let end = store
        .end_lease(&one, EndReason::Released, None, at(5))
        .await;
    let ending = end.unwrap().unwrap();
    let row = store.vm(vm).await.unwrap().unwrap();
    store.vm_gone(&row, at(6)).await.unwrap().unwrap();
    let changes = follower.catch_up(&store).await.unwrap();
    // Both rows of one commit, and the last of what happened to each.
    let Changes::These { vms, leases } = &changes else {
        panic!("all is told");
    };
    assert!(vms[0].phase.is_gone());
    assert_eq!(*leases, [ending.clone(), two]);
    store.finish_lease(&ending, at(7)).await.unwrap().unwrap();
    let changes = follower.catch_up(&store).await.unwrap();
    assert_eq!(told(changes), (vec![], vec![one.id]));
}

#[tokio::test]
async fn a_follower_sees_what_others_write_as_soon_as_anything_is_written() {
    let Fixture { store, folder } = Fixture::new().await;
    let other = Store::open(&folder.path().join("state.db")).await.unwrap();
    let mut follower = store.follow();
    insert(&store, &new_lease(1)).await;
    follower.catch_up(&store).await.unwrap();
    insert(&other, &new_lease(2)).await;
    insert(&store, &new_lease(3)).await;
    let Changes::All(rows) = follower.catch_up(&store).await.unwrap() else {
        panic!("what the other wrote is not told");
    };
    assert_eq!(rows.leases.len(), 3);
    insert(&store, &new_lease(4)).await;
    let (_, leases) = told(follower.catch_up(&store).await.unwrap());
    assert_eq!(leases, [LeaseId::from_bits(4)]);
}

#[tokio::test]
async fn a_follower_that_could_not_read_all_reads_it_the_next_time() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    insert(&store, &new_lease(1)).await;
    let mut follower = store.follow();
    let sql = async |text: &'static str| {
        let done = sqlx::raw_sql(text).execute(&store.pool).await;
        done.unwrap();
    };
    sql("UPDATE leases SET state = 'asleep'").await;
    let error = follower.catch_up(&store).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    sql("UPDATE leases SET state = 'waiting'").await;
    let changes = follower.catch_up(&store).await.unwrap();
    assert!(matches!(changes, Changes::All(rows) if rows.leases.len() == 1));
}

#[tokio::test]
async fn who_waits_for_a_lease_is_woken_for_that_lease_only() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    let one = insert(&store, &new_lease(1)).await;
    let mut news = store.news_of(one.id);
    let mut other = store.news_of(LeaseId::from_bits(2));
    // Whoever has the answer to a write finds that everybody was told of it.
    let woken = async |news: &mut crate::store::LeaseNews| {
        let changed = std::pin::pin!(news.changed());
        futures_util::poll!(changed).is_ready()
    };
    assert!(!woken(&mut news).await);
    insert(&store, &new_lease(2)).await;
    assert!(woken(&mut other).await && !woken(&mut news).await);
    let progress = [(one.id, remote_docker_api::EventKind::Cloning)];
    store.note_progress(&progress, at(1)).await.unwrap();
    assert!(woken(&mut news).await && !woken(&mut other).await);
    store.wish_end(one.id, EndReason::Released).await.unwrap();
    let known = news.lease(&store).await.unwrap();
    assert_eq!(
        known.as_deref(),
        store.lease(one.id).await.unwrap().as_ref()
    );
    // A second one of the same lease does not take the first one's place.
    drop(store.news_of(one.id));
    assert!(woken(&mut news).await && !woken(&mut other).await);
}

#[tokio::test]
async fn who_waits_for_a_lease_has_it_as_it_is() {
    let Fixture { store, folder } = Fixture::new().await;
    let other = Store::open(&folder.path().join("state.db")).await.unwrap();
    let mut news = store.news_of(LeaseId::from_bits(1));
    let mut is_up_to_date = async || {
        let there = store.lease(LeaseId::from_bits(1)).await.unwrap();
        assert_eq!(news.lease(&store).await.unwrap().as_deref(), there.as_ref());
        there
    };
    assert_eq!(is_up_to_date().await, None);
    let lease = insert(&store, &new_lease(1)).await;
    assert_eq!(is_up_to_date().await, Some(lease.clone()));
    let (vm, grant) = (ready(&store, 1).await, grant(VmId::from_bits(1), 20_000));
    let held = store.assign(&lease, &vm, &grant, at(3)).await.unwrap();
    assert_eq!(is_up_to_date().await, held);
    // Another process writes, and then this one something else.
    other.heartbeat(lease.id, at(4)).await.unwrap();
    other.wish_end(lease.id, EndReason::Idle).await.unwrap();
    insert(&store, &new_lease(2)).await;
    let row = is_up_to_date().await.unwrap();
    assert_eq!(row.end_wish, Some(EndReason::Idle));
}

#[tokio::test]
async fn events_are_numbered_in_their_order_however_many_are_written_together() {
    use remote_docker_api::EventKind;
    let Fixture { store, folder: _f } = Fixture::new().await;
    let leases: Vec<_> = (1..=75).map(new_lease).collect();
    join_all(leases.iter().map(|new| insert(&store, new))).await;
    // Two of each, and some that do not wait any more.
    let ended = store.lease(leases[7].id).await.unwrap().unwrap();
    let ended = store.end_lease(&ended, EndReason::Released, None, at(1));
    ended.await.unwrap().unwrap();
    let kinds = [EventKind::Cloning, EventKind::Activating];
    let progress: Vec<_> = (leases.iter())
        .flat_map(|lease| kinds.map(|kind| (lease.id, kind)))
        .collect();
    store.note_progress(&progress, at(2)).await.unwrap();
    for lease in &leases {
        let events = store.events(lease.id, 0).await.unwrap();
        let told: Vec<_> = events.iter().map(|event| (event.seq, event.kind)).collect();
        let after = if lease.id == leases[7].id {
            vec![(2, EventKind::Ending)]
        } else {
            vec![(2, EventKind::Cloning), (3, EventKind::Activating)]
        };
        assert_eq!(told, [vec![(1, EventKind::Queued)], after].concat());
    }
}

/// Holds the writer up until it is let go, so that all that is handed over meanwhile shares a transaction.
struct Holds(std::sync::Mutex<std::sync::mpsc::Receiver<()>>);

impl Operation for Holds {
    type Answer = ();

    fn run(&self, _: &mut Change<'_>) -> Result<(), StoreError> {
        self.0.lock().unwrap().recv().unwrap();
        Ok(())
    }
}

/// How often the writer's thread has waited for anybody so far.
struct Waits;

impl Operation for Waits {
    type Answer = i64;

    fn run(&self, _: &mut Change<'_>) -> Result<i64, StoreError> {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
        Ok(usage.voluntary_context_switches())
    }
}

#[tokio::test]
async fn between_two_statements_of_a_transaction_nobody_is_woken() {
    const WRITES: u64 = 40;
    /// The disk or the allocator may hold it up at any time: the least of some transactions counts.
    const TRANSACTIONS: u64 = 10;
    let Fixture { store, folder: _f } = Fixture::new().await;
    let mut waits = Vec::new();
    for transaction in 0..TRANSACTIONS {
        let first = transaction * WRITES;
        let leases: Vec<_> = (first..first + WRITES).map(new_lease).collect();
        let (go, held) = std::sync::mpsc::channel();
        let writes = join_all(leases.iter().map(|new| insert(&store, new)));
        let ((), before, _, after, ()) = tokio::join!(
            async { store.write(Holds(held.into())).await.unwrap() },
            store.write(Waits),
            writes,
            store.write(Waits),
            async { go.send(()).unwrap() },
        );
        waits.push(after.unwrap() - before.unwrap());
    }
    // A statement that another thread carried out would be waited for.
    let least = waits.iter().min().unwrap();
    assert!(*least < 10, "{waits:?} for {WRITES} writes each");
}

#[tokio::test]
async fn whoever_follows_a_lease_from_before_it_was_made_never_looks_it_up() {
    let Fixture { store, folder: _f } = Fixture::new().await;
    let mut news = store.news_of(LeaseId::from_bits(1));
    let lease = insert(&store, &new_lease(1)).await;
    // Nobody can look anything up any more.
    store.pool.close().await;
    let known = news.lease(&store).await.unwrap().unwrap();
    assert_eq!(*known, lease);
    store.wish_end(lease.id, EndReason::Released).await.unwrap();
    let known = news.lease(&store).await.unwrap().unwrap();
    assert_eq!(known.end_wish, Some(EndReason::Released));
    // As anybody has to who comes later.
    drop(news);
    let mut late = store.news_of(lease.id);
    late.lease(&store).await.unwrap_err();
}

#[tokio::test]
async fn the_log_begins_anew_however_much_is_written() {
    let Fixture { store, folder } = Fixture::new().await;
    let log = folder.path().join("state.db-wal");
    let mut longest = 0;
    // Some nine pages each.
    for id in 0..3000 {
        insert(&store, &new_lease(id)).await;
        longest = std::fs::metadata(&log).unwrap().len().max(longest);
    }
    // It was never longer than what the writer adds before it waits for the keeper.
    assert!(longest < 22 << 20, "{longest} bytes");
}

#[tokio::test]
async fn the_log_begins_anew_however_much_each_write_adds() {
    let Fixture { store, folder } = Fixture::new().await;
    let log = folder.path().join("state.db-wal");
    let mut longest = 0;
    // A hundred pages each.
    let much = BTreeMap::from([("job".to_owned(), "x".repeat(400_000))]);
    for id in 0..150 {
        let new = NewLease {
            labels: much.clone(),
            ..new_lease(id)
        };
        insert(&store, &new).await;
        longest = std::fs::metadata(&log).unwrap().len().max(longest);
    }
    // Less than what whoever commits would let it grow to.
    assert!(longest < 22 << 20, "{longest} bytes");
}

#[tokio::test]
async fn what_is_over_is_forgotten_a_few_at_a_time() {
    const LEASES: u64 = 250;
    let Fixture { store, folder: _f } = Fixture::new().await;
    let over = (0..LEASES).map(async |id| {
        let lease = insert(&store, &new_lease(id)).await;
        let ending = store.end_lease(&lease, EndReason::Released, None, at(1));
        let ending = ending.await.unwrap().unwrap();
        store.finish_lease(&ending, at(2)).await.unwrap().unwrap();
    });
    join_all(over).await;
    let commits = store.changes();
    let before = *commits.borrow();
    assert_eq!(store.prune(at(10)).await.unwrap(), LEASES);
    assert_eq!(*commits.borrow() - before, 3);
    assert_eq!(store.prune(at(10)).await.unwrap(), 0);
}

#[tokio::test]
async fn the_log_is_taken_in_while_nobody_writes() {
    let Fixture { store, folder } = Fixture::new().await;
    let length = || std::fs::metadata(folder.path().join("state.db")).unwrap();
    let before = length().len();
    // Enough for the keeper and too little for whoever commits.
    for id in 0..300 {
        insert(&store, &new_lease(id)).await;
    }
    let taken_in = async {
        while length().len() == before {
            tokio::time::sleep(StdDuration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(FAR, taken_in).await;
    waited.expect("nobody takes the log in");
}
