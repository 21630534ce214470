//! A thread that lives in a network namespace and does there what it is given, one job at a time.
//!
//! Which namespace a system call acts on is a property of the thread that makes it. Everything that
//! has to happen in the VMs' namespace is sent to such a thread; no other thread ever changes over.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::{io, thread};

use rtnetlink::Handle;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::{NetworkError, namespace};

type Job = Box<dyn FnOnce(&Runtime) + Send>;

/// Sends jobs to the thread; the thread ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    jobs: mpsc::Sender<Job>,
}

impl Worker {
    /// Starts a thread in the given namespace. `name` is for people who look at a list of threads.
    pub(super) fn start(name: &str, object: File) -> Result<Self, NetworkError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, entered) = mpsc::channel();
        let start = NetworkError::system(format!("start the thread {name}"));
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            // The runtime is for the kernel's configuration socket; it has no other user.
            let runtime = namespace::enter(object.as_fd())
                .and_then(|()| Builder::new_current_thread().enable_io().build());
            drop(object);
            match runtime {
                Ok(runtime) => {
                    let _ = ready.send(Ok(()));
                    queue.into_iter().for_each(|job| job(&runtime));
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
        let outcome = thread.and_then(|_| entered.recv().unwrap_or_else(|_| Err(gone())));
        outcome.map(|()| Self { jobs }).map_err(start)
    }

    /// Runs `job` on the thread. A caller that stops waiting does not stop the job.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NetworkError> {
        self.send(move |_| job()).await
    }

    /// Runs `job` on the thread with a connection to the kernel's network configuration.
    pub(super) async fn configure<T, F, Fut>(&self, job: F) -> Result<T, NetworkError>
    where
        T: Send + 'static,
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, NetworkError>>,
    {
        // A connection for each job: opening one takes some 50 µs, and no job meets what an earlier
        // one left unread.
        self.send(move |runtime| {
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection().map_err(
                    NetworkError::system("talk to the kernel's network configuration"),
                )?;
                let pump = tokio::spawn(connection);
                let result = job(handle).await;
                pump.abort();
                result
            })
        })
        .await?
    }

    async fn send<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Runtime) -> T + Send + 'static,
    ) -> Result<T, NetworkError> {
        let (answer, result) = oneshot::channel();
        self.jobs
            .send(Box::new(move |runtime| drop(answer.send(job(runtime)))))
            .map_err(|_| NetworkError::WorkerGone)?;
        result.await.map_err(|_| NetworkError::WorkerGone)
    }
}

fn gone() -> io::Error {
    io::Error::other("it ended before it was ready")
}
