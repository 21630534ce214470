//! Who is told what of a commit: a follower gets every row that changed, whoever waits for one lease
//! is woken for that lease only, and everybody may ask whether anything changed at all.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use remote_docker_api::LeaseId;
use tokio::sync::watch;

use super::writer::Written;
use super::{Rows, Store, StoreError};
use crate::ids::VmId;
use crate::lease::{LeaseRow, VmRow};

#[derive(Debug, Default)]
pub(super) struct News {
    /// Counts the commits.
    commits: watch::Sender<u64>,
    /// Those that somebody waits for.
    leases: Mutex<HashMap<LeaseId, watch::Sender<Told>>>,
    followers: Mutex<Vec<Weak<Mutex<Mail>>>>,
}

/// What a follower has not looked at yet. It never holds more than there are rows.
#[derive(Debug, Default)]
struct Mail {
    /// Anything may have changed.
    all: bool,
    vms: BTreeMap<VmId, VmRow>,
    leases: BTreeMap<LeaseId, Arc<LeaseRow>>,
}

/// What is known of a lease from the commits since somebody waits for it.
#[derive(Debug, Clone, Default)]
enum Told {
    /// Its row did not change.
    #[default]
    Nothing,
    /// It is so now.
    Row(Arc<LeaseRow>),
    /// Somebody else wrote.
    Unknown,
}

/// What changed since a follower looked last.
#[derive(Debug)]
pub enum Changes {
    /// Anything may have: these are all rows that live.
    All(Rows),
    /// These rows, of which some do not live any more.
    These {
        /// VMs, some of them gone.
        vms: Vec<VmRow>,
        /// Leases, some of them ended.
        leases: Vec<LeaseRow>,
    },
}

/// Keeps somebody's copy of the rows up to date.
#[derive(Debug)]
pub struct Follower {
    mail: Arc<Mutex<Mail>>,
    /// All rows have to be read, which was not done yet or failed.
    behind: bool,
}

impl Follower {
    /// What has changed since the last call; at first, everything. Rows of one commit come together.
    /// Whoever has the answer to a write finds that write in here, at the latest.
    ///
    /// # Errors
    /// When all rows have to be read and that fails, or one is damaged; the next call reads them.
    pub async fn catch_up(&mut self, store: &Store) -> Result<Changes, StoreError> {
        let mail = std::mem::take(&mut *locked(&self.mail));
        self.behind |= mail.all;
        if self.behind {
            // What is written meanwhile comes as mail as well, and is the same or newer.
            let rows = store.rows().await?;
            self.behind = false;
            return Ok(Changes::All(rows));
        }
        Ok(Changes::These {
            vms: mail.vms.into_values().collect(),
            leases: mail
                .leases
                .into_values()
                .map(Arc::unwrap_or_clone)
                .collect(),
        })
    }
}

/// Tells of changes to one lease.
#[derive(Debug)]
pub struct LeaseNews {
    id: LeaseId,
    told: watch::Receiver<Told>,
    /// As it was in the database when it was looked up there.
    read: Option<Arc<LeaseRow>>,
    news: Arc<News>,
}

impl LeaseNews {
    /// Waits for the next change to the lease, its events included, since this was made or asked last.
    pub async fn changed(&mut self) {
        // The sender stays for as long as there is a receiver.
        if self.told.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// The lease as the last commit left it: looked up only when no commit has told that. Whoever had
    /// this before the lease was made never has to.
    ///
    /// # Errors
    /// When the database fails or the row is damaged.
    pub async fn lease(&mut self, store: &Store) -> Result<Option<Arc<LeaseRow>>, StoreError> {
        match (self.told.borrow().clone(), &self.read) {
            (Told::Row(row), _) => return Ok(Some(row)),
            (Told::Nothing, Some(row)) => return Ok(Some(row.clone())),
            (Told::Nothing | Told::Unknown, _) => {}
        }
        self.read = store.lease(self.id).await?.map(Arc::new);
        Ok(self.read.clone())
    }
}

impl Drop for LeaseNews {
    fn drop(&mut self) {
        let mut leases = locked(&self.news.leases);
        // Its receiver goes while the lock is held: of two that are dropped at once the later one must
        // find itself the last.
        let (_, of_nothing) = watch::channel(Told::Nothing);
        drop(std::mem::replace(&mut self.told, of_nothing));
        let is_last = |sender: &watch::Sender<Told>| sender.receiver_count() == 0;
        if leases.get(&self.id).is_some_and(is_last) {
            leases.remove(&self.id);
        }
    }
}

impl News {
    pub(super) fn commits(&self) -> watch::Receiver<u64> {
        self.commits.subscribe()
    }

    pub(super) fn follow(&self) -> Follower {
        let mail = Arc::new(Mutex::new(Mail::default()));
        let mut followers = locked(&self.followers);
        followers.retain(|follower| follower.strong_count() > 0);
        followers.push(Arc::downgrade(&mail));
        Follower { mail, behind: true }
    }

    pub(super) fn of_lease(self: Arc<Self>, id: LeaseId) -> LeaseNews {
        let told = locked(&self.leases).entry(id).or_default().subscribe();
        LeaseNews {
            id,
            told,
            read: None,
            news: self,
        }
    }

    /// Tells everybody. To be called by the one writer only, in the order of the commits.
    pub(super) fn publish(&self, written: Written) {
        if !written.something {
            return;
        }
        for follower in locked(&self.followers).iter().filter_map(Weak::upgrade) {
            locked(&follower).put(&written);
        }
        let leases = locked(&self.leases);
        if written.all {
            for lease in leases.values() {
                lease.send_replace(Told::Unknown);
            }
        } else if !leases.is_empty() {
            for row in &written.leases {
                if let Some(lease) = leases.get(&row.id) {
                    lease.send_replace(Told::Row(row.clone()));
                }
            }
            for event in &written.events {
                if let Some(lease) = leases.get(&event.lease) {
                    lease.send_modify(|_| {});
                }
            }
        }
        drop(leases);
        self.commits
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Mail {
    fn put(&mut self, written: &Written) {
        self.all |= written.all;
        if self.all {
            // All will be read anyway.
            self.vms.clear();
            self.leases.clear();
            return;
        }
        let vms = written.vms.iter().map(|row| (row.id, row.clone()));
        self.vms.extend(vms);
        let leases = written.leases.iter().map(|row| (row.id, row.clone()));
        self.leases.extend(leases);
    }
}

/// Nothing that holds one of these locks panics.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn of_two_who_wait_for_a_lease_and_go_at_once_nothing_is_left() {
        // The moment between the two is short: some ten in a hundred thousand meet in it.
        const ROUNDS: u64 = 100_000;
        let news = Arc::new(News::default());
        let together = Barrier::new(2);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for lease in 0..ROUNDS {
                        let waits = news.clone().of_lease(LeaseId::from_bits(lease));
                        together.wait();
                        drop(waits);
                    }
                });
            }
        });
        assert_eq!(locked(&news.leases).len(), 0);
    }
}
