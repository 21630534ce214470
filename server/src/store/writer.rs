//! The one writer. Everybody who wants something written hands over an operation and waits for its
//! answer; the writer takes all that wait, carries them out in one transaction, commits, tells what
//! changed, and only then answers. So a write costs its statements, and a commit is shared. It calls SQLite
//! itself, so that nobody has to be woken between two statements.
//!
//! A caller that goes away takes nothing with it: what was handed over is carried out.

use std::sync::Arc;
use std::thread::JoinHandle;

use remote_docker_api::{EventKind, LeaseId};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use super::events::{self, NewEvent};
use super::keeper::Keeper;
use super::line::Line;
use super::news::News;
use super::opening::Opening;
use super::reserve::Reserve;
use super::taken::Taken;
use crate::audit::Asked;
use crate::ids::InstallId;
use crate::lease::{LeaseRow, VmRow};

/// How many operations may wait for the writer; callers wait beyond that.
const MOST_WAITING: usize = 1024;

/// How many operations share a transaction at most: the first of them waits for the last.
const MOST_TOGETHER: usize = 128;

/// Something to write.
pub(super) trait Operation: Send + Sync + 'static {
    /// What the caller learns.
    type Answer: Send + 'static;

    /// Carries it out, with all or none of what it writes. It may be called again after it failed, and
    /// after another one failed that shared the transaction.
    ///
    /// Whoever lost a race must have written nothing: that is an answer, not an error, and what was
    /// written before it is committed.
    fn run(&self, change: &mut Change<'_>) -> Result<Self::Answer, StoreError>;
}

/// The transaction as an operation sees it.
pub(super) struct Change<'c> {
    pub(super) line: &'c Line,
    pub(super) node: InstallId,
    taken: &'c mut Option<Taken>,
    written: &'c mut Written,
}

/// What a transaction wrote.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Anything.
    pub(super) something: bool,
    /// So much that it is not told apart.
    pub(super) all: bool,
    /// The rows that changed, as they are now; of one that changed twice, the last counts.
    pub(super) vms: Vec<VmRow>,
    pub(super) leases: Vec<Arc<LeaseRow>>,
    /// What happened to leases, in order.
    pub(super) events: Vec<NewEvent>,
}

impl Change<'_> {
    /// Something was written that nobody needs to know more about.
    pub(super) fn wrote(&mut self) {
        self.written.something = true;
    }

    /// Any row may have changed.
    pub(super) fn wrote_all(&mut self) {
        self.written.something = true;
        self.written.all = true;
    }

    /// This lease is now so.
    pub(super) fn wrote_lease(&mut self, row: &LeaseRow) {
        self.written.something = true;
        self.written.leases.push(Arc::new(row.clone()));
    }

    /// This VM is now so.
    pub(super) fn wrote_vm(&mut self, row: &VmRow) {
        self.written.something = true;
        self.written.vms.push(row.clone());
        if let Some(taken) = self.taken.as_mut().filter(|_| row.phase.is_gone()) {
            taken.give_back(row);
        }
    }

    /// Something happened to this lease. Written with the other events before the commit.
    pub(super) fn tell(
        &mut self,
        lease: LeaseId,
        kind: EventKind,
        detail: Option<&str>,
        at: OffsetDateTime,
    ) {
        self.written.something = true;
        let detail = detail.map(str::to_owned);
        self.written.events.push(NewEvent {
            lease,
            kind,
            detail,
            caller: None,
            at,
        });
    }

    /// The same, of what somebody's call did.
    pub(super) fn tell_of(
        &mut self,
        caller: &Asked,
        lease: LeaseId,
        kind: EventKind,
        at: OffsetDateTime,
    ) {
        self.written.something = true;
        self.written.events.push(NewEvent {
            lease,
            kind,
            detail: None,
            caller: Some(caller.clone()),
            at,
        });
    }

    /// What the VMs of this node take that are not gone, read when it is not known.
    pub(super) fn taken(&mut self) -> Result<&mut Taken, StoreError> {
        let known = match self.taken.take() {
            Some(known) => known,
            None => Taken::read(self.line, self.node)?,
        };
        Ok(self.taken.insert(known))
    }
}

/// An operation on its way, whatever its answer is.
trait Waiting: Send {
    fn run(&mut self, change: &mut Change<'_>) -> Result<(), StoreError>;
    /// Tells the caller what [`Self::run`] came to, or why it does not count.
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Order<O: Operation> {
    operation: O,
    result: Option<O::Answer>,
    answer: oneshot::Sender<Result<O::Answer, StoreError>>,
}

impl<O: Operation> Waiting for Order<O> {
    fn run(&mut self, change: &mut Change<'_>) -> Result<(), StoreError> {
        self.result = Some(self.operation.run(change)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let answer = match (outcome, self.result) {
            (Err(error), _) => Err(error),
            (Ok(()), Some(result)) => Ok(result),
            // It ran, so it has one; a caller without an answer takes the writer for closed.
            (Ok(()), None) => return,
        };
        // Who has gone away need not know.
        let _ = self.answer.send(answer);
    }
}

/// Hands operations to the writer, which ends with the last of these.
#[derive(Debug, Clone)]
pub(super) struct Desk(mpsc::Sender<Box<dyn Waiting>>);

impl Desk {
    /// Has it carried out; the answer comes after the commit, and after everybody was told.
    ///
    /// # Errors
    /// When the database fails or the store was closed.
    pub(super) async fn write<O: Operation>(&self, operation: O) -> Result<O::Answer, StoreError> {
        let (answer, answered) = oneshot::channel();
        let order = Order {
            operation,
            result: None,
            answer,
        };
        let handed = self.0.send(Box::new(order)).await;
        handed.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }
}

/// The writer and all that it knows.
pub(super) struct Writer {
    opening: Opening,
    node: InstallId,
    news: Arc<News>,
    /// It is given up, and what it was about is rolled back with it, when it is not certain in what
    /// state it is.
    line: Option<Connected>,
    /// Below the connection, as it ends after it: with the last of the files that it has open SQLite's locks go.
    keeper: Keeper,
    /// What is taken, as far as this writer's own transactions tell.
    taken: Option<Taken>,
}

/// The writer's connection.
struct Connected {
    line: Line,
    /// SQLite's own count of what other connections wrote; `None` before the first look.
    others: Option<i64>,
    /// How many of the pages that it wrote the keeper of the log was told of.
    counted: u64,
}

impl Writer {
    /// Begins to write, and answers the desk at which orders are taken; the thread ends when all that
    /// were given there are carried out and the last handle of the desk is dropped.
    ///
    /// A thread of its own, because each statement is a call that takes as long as it takes.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(
        opening: Opening,
        node: InstallId,
        news: Arc<News>,
        reserve: Arc<Reserve>,
    ) -> Result<(Desk, JoinHandle<()>), StoreError> {
        let (desk, orders) = mpsc::channel(MOST_WAITING);
        let writer = Self {
            keeper: Keeper::start(opening.clone(), reserve)?,
            opening,
            node,
            news,
            line: None,
            taken: None,
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(orders))
            .map_err(|error| StoreError::Open(Arc::new(error)))?;
        Ok((Desk(desk), thread))
    }

    fn run(mut self, mut orders: mpsc::Receiver<Box<dyn Waiting>>) {
        let mut together = Vec::new();
        while orders.blocking_recv_many(&mut together, MOST_TOGETHER) > 0 {
            self.carry_out(std::mem::take(&mut together));
            self.tend_the_log();
        }
    }

    /// Carries all of them out together, or each by itself if one of them fails: it must not take the
    /// others with it.
    fn carry_out(&mut self, mut orders: Vec<Box<dyn Waiting>>) {
        match self.transaction(&mut orders) {
            Ok(()) => orders.into_iter().for_each(|order| order.answer(Ok(()))),
            // None of them would get further.
            Err(Failed::ToBegin(error)) => {
                for order in orders {
                    order.answer(Err(error.clone()));
                }
            }
            Err(Failed::Later(error)) if orders.len() == 1 => {
                for order in orders {
                    order.answer(Err(error.clone()));
                }
            }
            Err(Failed::Later(_)) => {
                for order in orders {
                    let mut alone = [order];
                    let done = self.transaction(&mut alone);
                    let [order] = alone;
                    order.answer(done.map_err(Failed::error));
                }
            }
        }
    }

    fn transaction(&mut self, orders: &mut [Box<dyn Waiting>]) -> Result<(), Failed> {
        let mut written = Written::default();
        let mut connected = match self.line.take() {
            Some(connected) => connected,
            None => self.connect().map_err(Failed::ToBegin)?,
        };
        if let Err(error) = self.begin(&mut connected) {
            // Perhaps it has begun nevertheless.
            self.roll_back(connected);
            return Err(Failed::ToBegin(error));
        }
        let line = &connected.line;
        for order in orders {
            let mut change = Change {
                line,
                node: self.node,
                taken: &mut self.taken,
                written: &mut written,
            };
            if let Err(error) = order.run(&mut change) {
                self.roll_back(connected);
                return Err(Failed::Later(error));
            }
        }
        if let Err(error) = events::write(line, &written.events) {
            self.roll_back(connected);
            return Err(Failed::Later(error));
        }
        if let Err(error) = line.execute("COMMIT", &[]) {
            // Whether it was written nobody knows.
            self.news.publish(Written::unknown());
            self.roll_back(connected);
            return Err(Failed::Later(error));
        }
        self.line = Some(connected);
        self.news.publish(written);
        Ok(())
    }

    /// Everybody has been answered by now; whoever comes next waits for it.
    fn tend_the_log(&mut self) {
        let Some(Connected { line, counted, .. }) = &mut self.line else {
            return;
        };
        let written = line.pages_written();
        self.keeper
            .wrote(written - std::mem::replace(counted, written));
        let Some(turn) = self.keeper.writers_turn() else {
            return;
        };
        let wholly = line.take_log_in();
        drop(turn);
        let wholly = self.keeper.tell(wholly).unwrap_or(false);
        self.keeper.begins_anew(wholly);
    }

    fn connect(&self) -> Result<Connected, StoreError> {
        let line = Line::open(&self.opening)?;
        Ok(Connected {
            line,
            others: None,
            counted: 0,
        })
    }

    /// Begins a transaction that holds SQLite's write lock from the beginning: one that read first and
    /// wants to write later can be refused because another has written in between. Tells when another
    /// connection has written since the last one.
    fn begin(&mut self, connected: &mut Connected) -> Result<(), StoreError> {
        let Connected { line, others, .. } = connected;
        line.execute("BEGIN IMMEDIATE", &[])?;
        let written = line.first("PRAGMA data_version", &[], |row| Ok(row.get::<_, i64>(0)?))?;
        if std::mem::replace(others, written) != written {
            self.taken = None;
            self.news.publish(Written::unknown());
        }
        Ok(())
    }

    /// Undoes what was begun. A connection that cannot even do that is closed, which undoes it too:
    /// SQLite itself ends a transaction when the disk is full.
    fn roll_back(&mut self, connected: Connected) {
        self.taken = None;
        if connected.line.execute("ROLLBACK", &[]).is_ok() {
            self.line = Some(connected);
        }
    }
}

impl Written {
    /// Somebody else has written, or nobody knows what was.
    fn unknown() -> Self {
        Self {
            something: true,
            all: true,
            ..Self::default()
        }
    }
}

/// Where a transaction failed.
enum Failed {
    ToBegin(StoreError),
    Later(StoreError),
}

impl Failed {
    fn error(self) -> StoreError {
        match self {
            Self::ToBegin(error) | Self::Later(error) => error,
        }
    }
}
