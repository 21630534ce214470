//! How the rest of the server reaches a guest. A guest has one channel, and one task holds its end;
//! whoever wants something of the guest asks that task.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use guest_protocol::Logs;
use tokio::sync::{mpsc, oneshot};

use super::GuestError;
use crate::ids::VmId;

/// How long an asker waits, the questions before its own included.
const ASK_LIMIT: Duration = Duration::from_secs(30);

/// How many questions may wait for one guest.
const MAX_WAITING: usize = 8;

/// Something that somebody wants of a guest.
#[derive(Debug)]
pub enum Ask {
    /// The ends of its logs.
    Logs {
        /// How much of each, in bytes.
        max_bytes: u32,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Logs, GuestError>>,
    },
    /// A line for its console.
    Notice {
        /// The line.
        message: String,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<(), GuestError>>,
    },
}

/// A guest cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no such guest, it was just lost, or it is not listened to because it broke the rules.
    #[error("nobody is in touch with the agent of {vm}")]
    Unreached {
        /// The VM.
        vm: VmId,
    },
    /// Too many others asked before.
    #[error("the agent of {vm} has too many questions to answer already")]
    Busy {
        /// The VM.
        vm: VmId,
    },
    /// It was asked and did not do it.
    #[error("the agent of {vm} did not answer as it should")]
    Guest {
        /// The VM.
        vm: VmId,
        /// What happened.
        #[source]
        source: GuestError,
    },
}

/// The guests that are listened to. Clones of this handle see the same.
#[derive(Debug, Clone, Default)]
pub struct Guests(Arc<Mutex<BTreeMap<VmId, mpsc::Sender<Ask>>>>);

impl Guests {
    /// The ends of a guest's logs, `max_bytes` of each at most. Printable.
    ///
    /// # Errors
    /// When the guest is not reached or does not answer in time.
    pub async fn logs(&self, vm: VmId, max_bytes: u32) -> Result<Logs, AskError> {
        self.ask(vm, |answer| Ask::Logs { max_bytes, answer }).await
    }

    /// Writes one line on a guest's console.
    ///
    /// # Errors
    /// When the guest is not reached or does not answer in time.
    pub async fn notice(&self, vm: VmId, message: String) -> Result<(), AskError> {
        self.ask(vm, |answer| Ask::Notice { message, answer }).await
    }

    /// Whether somebody is in touch with the agent of `vm`.
    #[must_use]
    pub fn is_reached(&self, vm: VmId) -> bool {
        self.map().get(&vm).is_some_and(|guest| !guest.is_closed())
    }

    /// Makes `vm` one that can be asked; its questions come out of the receiver.
    pub(crate) fn enter(&self, vm: VmId) -> mpsc::Receiver<Ask> {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        self.map().insert(vm, sender);
        receiver
    }

    /// Forgets `vm`.
    pub(crate) fn leave(&self, vm: VmId) {
        self.map().remove(&vm);
    }

    async fn ask<T>(
        &self,
        vm: VmId,
        ask: impl FnOnce(oneshot::Sender<Result<T, GuestError>>) -> Ask,
    ) -> Result<T, AskError> {
        let guest = self.map().get(&vm).cloned();
        let guest = guest.ok_or(AskError::Unreached { vm })?;
        let (answer, answered) = oneshot::channel();
        guest.try_send(ask(answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AskError::Busy { vm },
            mpsc::error::TrySendError::Closed(_) => AskError::Unreached { vm },
        })?;
        match tokio::time::timeout(ASK_LIMIT, answered).await {
            Ok(Ok(answer)) => answer.map_err(|source| AskError::Guest { vm, source }),
            Ok(Err(_)) => Err(AskError::Unreached { vm }),
            Err(_) => Err(AskError::Guest {
                vm,
                source: GuestError::Timeout {
                    doing: "answer",
                    limit_s: ASK_LIMIT.as_secs(),
                },
            }),
        }
    }

    fn map(&self) -> std::sync::MutexGuard<'_, BTreeMap<VmId, mpsc::Sender<Ask>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: VmId = VmId::from_bits(1);

    #[tokio::test(start_paused = true)]
    async fn every_asker_gets_an_answer() {
        let guests = Guests::default();
        let unreached = guests.logs(VM, 1).await;
        assert!(matches!(unreached, Err(AskError::Unreached { .. })));

        let mut questions = guests.enter(VM);
        let (asked, ()) = tokio::join!(guests.notice(VM, "hello".into()), async {
            match questions.recv().await {
                Some(Ask::Notice { message, answer }) => {
                    assert_eq!(message, "hello");
                    answer.send(Ok(())).unwrap();
                }
                other => panic!("{other:?}"),
            }
        });
        asked.unwrap();

        // Nobody answers: by the deadline.
        let late = guests.logs(VM, 1).await;
        assert!(matches!(late, Err(AskError::Guest { .. })), "{late:?}");
        // Nobody even takes the question: at once.
        let asked = (0..=MAX_WAITING).map(|_| guests.logs(VM, 1));
        let answers = futures_util::future::join_all(asked).await;
        assert!(matches!(answers[MAX_WAITING], Err(AskError::Busy { .. })));
        // Whoever held the channel is gone.
        drop(questions);
        let gone = guests.logs(VM, 1).await;
        assert!(matches!(gone, Err(AskError::Unreached { .. })));
        guests.leave(VM);
    }
}
