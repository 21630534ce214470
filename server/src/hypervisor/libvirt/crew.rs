//! Threads for calls that may never return. Each does one call at a time; when a call takes longer
//! than it may, another thread takes the place of its own, which ends by itself should the call
//! ever return: there is no way to stop it.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::hypervisor::HypervisorError;
use crate::ids::VmId;

/// How many calls run at a time, those that are given up not counted.
const THREADS: usize = 6;

/// How many threads there may be, those in calls that are given up counted. Beyond, a call that does
/// not return keeps its place.
const MOST_THREADS: usize = 64;

/// How long to wait before another try to start a thread when the system refuses.
const PAUSE: Duration = Duration::from_secs(1);

/// What a call is about. After one that did not return, further ones about the same are refused:
/// they would wait for the same thing, each with a thread of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum About {
    /// The host as a whole.
    Host,
    /// One VM.
    Vm(VmId),
}

/// A call; tells whether its thread goes on to the next.
type Job<C> = Box<dyn FnOnce(&C) -> bool + Send>;
type Queue<C> = Arc<Mutex<mpsc::Receiver<Job<C>>>>;

/// The threads. They end when it is dropped, except in a call that does not return.
#[derive(Debug)]
pub(super) struct Crew<C> {
    jobs: mpsc::Sender<Job<C>>,
    /// One for each thread that is not in a call that was given up.
    places: Arc<Semaphore>,
    /// Starts a thread for each place that it gets.
    foreman: mpsc::Sender<OwnedSemaphorePermit>,
    count: Arc<Mutex<Count>>,
}

#[derive(Debug, Default)]
struct Count {
    threads: usize,
    stuck: BTreeSet<About>,
}

/// Where a call is. Whoever finds it stuck and whoever finishes it agree here on what becomes of its
/// thread.
enum Call {
    Waits(OwnedSemaphorePermit),
    Runs(OwnedSemaphorePermit),
    /// It need not begin any more.
    CalledOff,
    /// Its thread was replaced.
    GivenUp,
    Done,
}

impl<C: Clone + Send + 'static> Crew<C> {
    /// Makes on a new thread what the calls are to be given, and then starts the threads from there,
    /// so that they inherit its namespaces. `name` is for the lists of the system.
    ///
    /// # Errors
    /// Those of `prepare`, and when there are no threads to be had.
    pub(super) async fn start(
        name: &'static str,
        prepare: impl FnOnce() -> Result<C, HypervisorError> + Send + 'static,
    ) -> Result<Self, HypervisorError> {
        let (jobs, queue) = mpsc::channel::<Job<C>>();
        let (foreman, vacant) = mpsc::channel::<OwnedSemaphorePermit>();
        let (ready, is_ready) = oneshot::channel();
        spawn(name, move || {
            let queue = Arc::new(Mutex::new(queue));
            let started = prepare().and_then(|context| {
                for _ in 0..THREADS {
                    start_worker(name, &context, &queue)?;
                }
                Ok(context)
            });
            let (context, answer) = match started {
                Ok(context) => (Some(context), Ok(())),
                Err(error) => (None, Err(error)),
            };
            // Nobody waits for the answer only if the start was given up.
            let _ = ready.send(answer);
            for place in vacant {
                let Some(context) = &context else { return };
                while let Err(error) = start_worker(name, context, &queue) {
                    tracing::error!(%error, "a thread that does not return is not replaced yet");
                    thread::sleep(PAUSE);
                }
                drop(place);
            }
        })?;
        is_ready.await.unwrap_or(Err(HypervisorError::WorkerGone {
            doing: "open libvirt",
        }))?;
        Ok(Self {
            jobs,
            places: Arc::new(Semaphore::new(THREADS)),
            foreman,
            count: Arc::new(Mutex::new(Count {
                threads: THREADS,
                stuck: BTreeSet::new(),
            })),
        })
    }

    /// Runs `f` on one of the threads. When this future is dropped, or the limit passes, a call that
    /// has begun goes on until it returns.
    ///
    /// # Errors
    /// What `f` returns; that it took longer than `limit`; that an earlier call about the same did and
    /// has still not returned.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        about: About,
        doing: &'static str,
        limit: Duration,
        f: impl FnOnce(&C) -> Result<T, HypervisorError> + Send + 'static,
    ) -> Result<T, HypervisorError> {
        let gone = || HypervisorError::WorkerGone { doing };
        if lock(&self.count).stuck.contains(&about) {
            return Err(HypervisorError::StillStuck { doing });
        }
        let call = Arc::new(Mutex::new(Call::CalledOff));
        let run = async {
            let place = self.places.clone().acquire_owned().await;
            *lock(&call) = Call::Waits(place.map_err(|_| gone())?);
            let (reply, answer) = oneshot::channel();
            let job: Job<C> = Box::new({
                let (call, count) = (call.clone(), self.count.clone());
                move |context| {
                    if !begin(&call) {
                        return true;
                    }
                    let result = catch_unwind(AssertUnwindSafe(|| f(context)));
                    let goes_on = finish(&call, &count, about);
                    // The caller may have given up; the next look at the host tells what was done.
                    let result = result.unwrap_or(Err(HypervisorError::WorkerGone { doing }));
                    let _ = reply.send(result);
                    goes_on
                }
            });
            self.jobs.send(job).map_err(|_| gone())?;
            answer.await.unwrap_or_else(|_| Err(gone()))
        };
        match tokio::time::timeout(limit, run).await {
            Ok(result) => result,
            Err(_) => {
                self.give_up(&call, about, doing);
                Err(HypervisorError::Timeout {
                    doing,
                    limit_s: limit.as_secs(),
                })
            }
        }
    }

    /// Replaces the thread of a call that takes too long.
    fn give_up(&self, call: &Mutex<Call>, about: About, doing: &'static str) {
        let mut call = lock(call);
        match std::mem::replace(&mut *call, Call::CalledOff) {
            Call::Runs(place) => {
                let mut count = lock(&self.count);
                if count.threads >= MOST_THREADS {
                    tracing::error!(
                        "libvirt does not come back from {MOST_THREADS} calls, the last of which was to \
                         {doing}: restart the server; its VMs go on"
                    );
                    *call = Call::Runs(place);
                    return;
                }
                tracing::warn!(
                    ?about,
                    "libvirt was asked to {doing} and does not come back"
                );
                count.threads += 1;
                count.stuck.insert(about);
                *call = Call::GivenUp;
                // Fails only while everything ends.
                let _ = self.foreman.send(place);
            }
            Call::Waits(_) | Call::CalledOff | Call::GivenUp => {}
            Call::Done => *call = Call::Done,
        }
    }
}

/// Whether a call is still wanted; it runs then.
fn begin(call: &Mutex<Call>) -> bool {
    let mut call = lock(call);
    match std::mem::replace(&mut *call, Call::CalledOff) {
        Call::Waits(place) => {
            *call = Call::Runs(place);
            true
        }
        _ => false,
    }
}

/// Gives the place free. Tells whether the thread is still one of the crew.
fn finish(call: &Mutex<Call>, count: &Mutex<Count>, about: About) -> bool {
    let former = std::mem::replace(&mut *lock(call), Call::Done);
    let replaced = matches!(former, Call::GivenUp);
    if replaced {
        let mut count = lock(count);
        count.threads -= 1;
        count.stuck.remove(&about);
        tracing::info!(?about, "libvirt has come back");
    }
    !replaced
}

fn start_worker<C: Clone + Send + 'static>(
    name: &str,
    context: &C,
    queue: &Queue<C>,
) -> Result<(), HypervisorError> {
    let (context, queue) = (context.clone(), Arc::clone(queue));
    spawn(name, move || {
        loop {
            let job = lock(&queue).recv();
            let goes_on = job.is_ok_and(|job| job(&context));
            if !goes_on {
                break;
            }
        }
    })
}

/// Starts a thread of this name.
///
/// # Errors
/// When the system has none to give.
pub(super) fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<(), HypervisorError> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(body);
    started.map(|_| ()).map_err(|error| {
        HypervisorError::Unsuitable(format!("no thread could be started for libvirt: {error}"))
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
