use std::sync::Condvar;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Calls that are stuck until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn pass(&self) {
        let closed = self.0.1.wait_while(lock(&self.0.0), |open| !*open);
        drop(closed.unwrap());
    }

    fn open(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }
}

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(30);

fn vm(id: usize) -> About {
    About::Vm(VmId::from_bits(id as u64))
}

async fn crew() -> Crew<u32> {
    Crew::start("test", || Ok(7)).await.unwrap()
}

async fn answers(crew: &Crew<u32>, about: About) -> Result<u32, HypervisorError> {
    crew.call(about, "answer", LONG, |seven| Ok(*seven)).await
}

/// Begins a call that does not return for each of these VMs. On a busy machine the limit may pass before
/// a call's turn comes; it is made again then.
async fn stick(crew: &Crew<u32>, gate: &Gate, vms: std::ops::Range<usize>) {
    let stuck = vms.map(async |id| {
        let begun = Arc::new(AtomicBool::new(false));
        while !begun.load(Ordering::SeqCst) {
            let (gate, begins) = (gate.clone(), begun.clone());
            let call = crew.call(vm(id), "try", SHORT, move |_| {
                begins.store(true, Ordering::SeqCst);
                gate.pass();
                Ok(())
            });
            match call.await.unwrap_err() {
                HypervisorError::Timeout { .. } => {}
                // The limit passed just before its first words.
                HypervisorError::StillStuck { .. } => break,
                error => panic!("{error:?}"),
            }
        }
    });
    futures_util::future::join_all(stuck).await;
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not so: {what}");
}

#[tokio::test]
async fn calls_that_do_not_return_stop_nobody_else() {
    let (crew, gate) = (crew().await, Gate::default());
    for round in 0..5 {
        let first = round * THREADS;
        stick(&crew, &gate, first..first + THREADS).await;
        // As many as ever run at the same time.
        let barrier = Arc::new(std::sync::Barrier::new(THREADS));
        let all = (0..THREADS).map(|id| {
            let barrier = barrier.clone();
            crew.call(vm(1000 + id), "meet", LONG, move |_| {
                barrier.wait();
                Ok(())
            })
        });
        for result in futures_util::future::join_all(all).await {
            result.unwrap();
        }
    }
    assert_eq!(lock(&crew.count).threads, 6 * THREADS);
    // Those that return after all leave; the others stay.
    gate.open();
    eventually("those that returned left", || {
        lock(&crew.count).threads == THREADS
    })
    .await;
    assert_eq!(answers(&crew, vm(0)).await.unwrap(), 7);
    assert_eq!(crew.places.available_permits(), THREADS);
}

#[tokio::test]
async fn what_is_stuck_is_not_tried_again_until_it_has_returned() {
    let (crew, gate) = (crew().await, Gate::default());
    stick(&crew, &gate, 1..2).await;
    for _ in 0..100 {
        let error = answers(&crew, vm(1)).await.unwrap_err();
        assert!(matches!(error, HypervisorError::StillStuck { .. }));
    }
    assert_eq!(lock(&crew.count).threads, THREADS + 1);
    answers(&crew, vm(2)).await.unwrap();
    answers(&crew, About::Host).await.unwrap();
    gate.open();
    eventually("it has returned", || lock(&crew.count).stuck.is_empty()).await;
    answers(&crew, vm(1)).await.unwrap();
}

#[tokio::test]
async fn there_is_an_end_to_threads() {
    let (crew, gate) = (crew().await, Gate::default());
    let most = MOST_THREADS - THREADS;
    for first in (0..most).step_by(THREADS) {
        stick(&crew, &gate, first..(first + THREADS).min(most)).await;
    }
    assert_eq!(lock(&crew.count).threads, MOST_THREADS);
    // One more keeps its thread, and the others go on.
    stick(&crew, &gate, most..most + 1).await;
    assert_eq!(lock(&crew.count).threads, MOST_THREADS);
    answers(&crew, About::Host).await.unwrap();
    gate.open();
    eventually("all are back", || {
        lock(&crew.count).threads == THREADS && crew.places.available_permits() == THREADS
    })
    .await;
}

#[tokio::test]
async fn a_call_that_waited_too_long_for_its_turn_is_never_made() {
    let (crew, gate) = (crew().await, Gate::default());
    let occupied = (0..THREADS).map(|id| {
        let gate = gate.clone();
        crew.call(vm(id), "wait", LONG, move |_| {
            gate.pass();
            Ok(())
        })
    });
    let late = async {
        tokio::time::sleep(SHORT).await;
        let made = crew.call(vm(99), "come late", SHORT, |_| Ok(()));
        let error = made.await.unwrap_err();
        assert!(matches!(error, HypervisorError::Timeout { .. }));
        gate.open();
    };
    let (occupied, ()) = tokio::join!(futures_util::future::join_all(occupied), late);
    assert!(occupied.iter().all(Result::is_ok));
    assert_eq!(lock(&crew.count).threads, THREADS);
    answers(&crew, vm(99)).await.unwrap();
}

#[tokio::test]
async fn a_call_that_panics_costs_nobody_a_thread() {
    let crew = crew().await;
    for _ in 0..2 * THREADS {
        let result: Result<(), _> = crew
            .call(About::Host, "panic", LONG, |_| panic!("as told"))
            .await;
        let error = result.unwrap_err();
        assert!(matches!(error, HypervisorError::WorkerGone { .. }));
    }
    answers(&crew, About::Host).await.unwrap();
}
