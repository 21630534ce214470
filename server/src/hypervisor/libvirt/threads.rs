//! The threads that call libvirt. They live in the VMs' network namespace, because libvirt opens taps
//! and starts QEMU in the namespace of the thread that asked. There are several, so that one call
//! that does not return does not stop the others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::sync::{Semaphore, oneshot};
use virt::connect::Connect;

use super::LibvirtError;
use crate::hypervisor::HypervisorError;
use crate::network::Namespace;

/// How many calls run at a time.
const THREADS: usize = 6;

type Job = Box<dyn FnOnce(&Connect) + Send>;

/// How the threads are set up.
#[derive(Debug)]
pub(super) struct Setup {
    /// The VMs' network namespace.
    pub(super) namespace: Namespace,
    /// What to open.
    pub(super) uri: String,
    /// Whether libvirt runs in this process, and so needs an event loop of it.
    pub(super) embedded: bool,
    /// A file that nobody may open, to be put in the place of `/dev/kvm` for these threads and what
    /// they start. libvirt looks for KVM by itself; where QEMU's user may not use it, it comes to
    /// another result each time and probes QEMU anew for every VM, which takes a minute.
    pub(super) instead_of_kvm: Option<PathBuf>,
}

/// A handle to the threads. They end when it is dropped, except in a call that does not return.
#[derive(Debug)]
pub(super) struct Threads {
    jobs: mpsc::Sender<Job>,
    permits: Arc<Semaphore>,
}

impl Threads {
    /// Opens libvirt and starts the threads.
    ///
    /// # Errors
    /// When the namespace cannot be entered or libvirt cannot be opened.
    pub(super) async fn start(setup: Setup) -> Result<Self, HypervisorError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, is_ready) = oneshot::channel();
        // The others inherit its namespaces, so they are started by it.
        spawn("libvirt", move || {
            let started = prepare(&setup).and_then(|connect| start_workers(&connect, queue));
            // Nobody waits for the answer only if the start was given up.
            let _ = ready.send(started);
        })?;
        is_ready.await.unwrap_or(Err(HypervisorError::WorkerGone {
            doing: "open libvirt",
        }))?;
        Ok(Self {
            jobs,
            permits: Arc::new(Semaphore::new(THREADS)),
        })
    }

    /// Runs `f` on one of the threads. When this future is dropped, or the limit passes, a call that
    /// has begun goes on and keeps its thread until it returns: there is no way to stop it.
    ///
    /// # Errors
    /// What `f` returns, or that it took longer than `limit`.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        doing: &'static str,
        limit: Duration,
        f: impl FnOnce(&Connect) -> Result<T, HypervisorError> + Send + 'static,
    ) -> Result<T, HypervisorError> {
        let gone = || HypervisorError::WorkerGone { doing };
        let run = async {
            let permit = self.permits.clone().acquire_owned().await;
            let permit = permit.map_err(|_| gone())?;
            let (reply, answer) = oneshot::channel();
            let job: Job = Box::new(move |connect| {
                let result = catch_unwind(AssertUnwindSafe(|| f(connect)));
                drop(permit);
                // The caller may have given up; the next look at the host tells what was done.
                let _ = reply.send(result.unwrap_or(Err(HypervisorError::WorkerGone { doing })));
            });
            self.jobs.send(job).map_err(|_| gone())?;
            answer.await.unwrap_or_else(|_| Err(gone()))
        };
        tokio::time::timeout(limit, run).await.unwrap_or_else(|_| {
            Err(HypervisorError::Timeout {
                doing,
                limit_s: limit.as_secs(),
            })
        })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that opens libvirt: the thread entered the namespace before"
)]
fn prepare(setup: &Setup) -> Result<Connect, HypervisorError> {
    // libvirt prints errors by default; here they are returned.
    virt::error::clear_error_callback();
    setup.namespace.enter_current_thread()?;
    if let Some(file) = &setup.instead_of_kvm {
        hide_kvm(file).map_err(|source| HypervisorError::File {
            doing: "hide, from libvirt only,",
            path: "/dev/kvm".into(),
            source,
        })?;
    }
    if setup.embedded {
        virt::event::event_register_default_impl().doing("start its event loop")?;
        spawn("libvirt-events", || {
            loop {
                if let Err(error) = virt::event::event_run_default_impl() {
                    tracing::error!(%error, "libvirt's event loop stumbled");
                    thread::sleep(Duration::from_millis(100));
                }
            }
        })?;
    }
    Connect::open(Some(&setup.uri)).doing("be opened")
}

/// Puts `file` over `/dev/kvm` for the calling thread and those it will start.
fn hide_kvm(file: &std::path::Path) -> std::io::Result<()> {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What the host mounts later shows here as well; what is mounted here does not show there.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    mount(Some(file), "/dev/kvm", none, MsFlags::MS_BIND, none)?;
    Ok(())
}

fn start_workers(connect: &Connect, queue: mpsc::Receiver<Job>) -> Result<(), HypervisorError> {
    let queue = Arc::new(Mutex::new(queue));
    for number in 0..THREADS {
        let queue = Arc::clone(&queue);
        let connect = connect.clone();
        spawn(&format!("libvirt-{number}"), move || {
            loop {
                let job = {
                    let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                    queue.recv()
                };
                match job {
                    Ok(job) => job(&connect),
                    Err(_) => break,
                }
            }
        })?;
    }
    Ok(())
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), HypervisorError> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(body);
    started.map(|_| ()).map_err(|error| {
        HypervisorError::Unsuitable(format!("no thread could be started for libvirt: {error}"))
    })
}
