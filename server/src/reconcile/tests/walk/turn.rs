//! Takes one step: whom it concerns is drawn here.

use std::time::Duration;

use remote_docker_api::{Egress, EndReason, LeaseId};
use time::OffsetDateTime;
use tokio::task::yield_now;

use super::holder::{Held, Holder};
use super::step::{Ask, Step};
use super::world::World;
use crate::audit::Asked;
use crate::hypervisor::sim::{Manners, SimFault, SimGuest, Verb};
use crate::ids::VmId;
use crate::lease::{LeasePhase, LeaseRow, PoolKey, VmRow};
use crate::reconcile::tests::bench::key;
use crate::store::{Idempotency, Inserted, Moved, NewLease, Wish};

/// More leases than this do not wait at a time: a long queue takes long to look at, and shows nothing
/// that a short one does not.
const MOST_WAITING: usize = 12;

/// The longest that time jumps while nobody can do anything, in seconds.
const JUMP_S: u32 = 5;

/// Long enough for rows of what is over to be forgotten.
const NIGHT: Duration = Duration::from_secs(25 * 3600);

impl World {
    pub(super) async fn take(&mut self, step: Step) {
        self.note(step);
        self.act(step).await;
        match self.dice.below(20) {
            // The next step meets this one.
            0..9 => return,
            9..17 => self.run_for_a_while(32).await,
            17..19 => self.run_for_a_while(512).await,
            _ => self.round().await,
        }
        self.look_if_changed().await;
    }

    /// Lets everybody else run, at most so many times.
    async fn run_for_a_while(&mut self, most: u32) {
        for _ in 0..self.dice.of_any_size(most) {
            yield_now().await;
        }
    }

    async fn act(&mut self, step: Step) {
        match step {
            Step::Ask(ask) => self.ask(ask).await,
            Step::AskAgain => self.ask_again(false).await,
            Step::AskOtherwise => self.ask_again(true).await,
            Step::Release => {
                if let Some(id) = self.somebody() {
                    self.wish(id, EndReason::Released).await;
                }
            }
            Step::HangUp => {
                let waits = |holder: &&Holder| holder.held.is_none() && holder.asked.attended;
                if let Some(id) = self.one_of(waits) {
                    self.wish(id, EndReason::ClientGone).await;
                }
            }
            Step::Extend { seconds } => self.extend(seconds).await,
            Step::Heartbeat => self.heartbeat().await,
            Step::LookUp => self.look_up().await,
            Step::Work(works) => self.guest(|guest, now| {
                guest.activity.containers_running = Some(u32::from(works));
                guest.used_at = Some(now);
            }),
            Step::Use => self.guest(|guest, now| guest.used_at = Some(now)),
            Step::Daemon(answers) => self.guest(|guest, _| guest.docker_answers = answers),
            Step::Behave(manners) => {
                if let Some(vm) = self.machine() {
                    if matches!(manners, Manners::Floods | Manners::Rubbish) {
                        self.foul.insert(vm);
                    }
                    self.sim.behave(vm, manners);
                }
            }
            Step::CloseChannel => {
                if let Some(vm) = self.machine() {
                    self.sim.hang_up(vm);
                }
            }
            Step::Kill { left } => self.kill(left),
            Step::LeaveBehind { running } => {
                let vm = VmId::from_bits(self.dice.bits());
                self.sim.leave_behind(vm, running);
            }
            Step::Fault { verb, fault, lasts } => self.fault(verb, fault, lasts),
            Step::Lift => self.sim.lift_all(),
            Step::LetGo => self.sim.let_go(),
            Step::Write { bytes } => {
                if let Some(vm) = self.machine() {
                    self.sim.take_disk(vm, bytes);
                    self.is_it_low();
                }
            }
            Step::Disk { free } => {
                self.sim.set_free_disk(free);
                self.is_it_low();
            }
            Step::Pass { seconds } => self.pass(seconds).await,
            Step::Night => {
                // So that nothing is over unseen.
                self.rest().await;
                self.lives.disturbed = true;
                self.advance(NIGHT).await;
            }
            Step::Crash { away_s, reopen } => {
                self.crash(reopen).await;
                self.be_away(away_s).await;
            }
            Step::Stop { away_s } => {
                self.stop().await;
                self.be_away(away_s).await;
            }
            Step::Rest => self.rest().await,
        }
    }

    async fn ask(&mut self, ask: Ask) {
        let waits = self.leases.iter();
        let waits = waits.filter(|lease| lease.phase == LeasePhase::Waiting);
        if waits.count() >= MOST_WAITING {
            return;
        }
        let (id, name) = (self.dice.bits(), self.dice.bits());
        let now = self.now();
        let new = NewLease {
            id: LeaseId::from_bits(id),
            project: ask.project.to_owned(),
            key: PoolKey {
                size: ask.size.to_owned(),
                ..key()
            },
            ttl_s: ask.ttl_s,
            keepalive_s: ask.keepalive_s,
            idle_s: ask.idle_s,
            egress: Egress::Internet,
            idempotency: ask.repeatable.then(|| Idempotency {
                key: format!("{name:x}"),
                digest: "as it was".to_owned(),
            }),
            labels: std::collections::BTreeMap::new(),
            client_csr_pem: include_str!("../../../pki/fixtures/ec-prime256v1.pem").to_owned(),
            created_at: now,
            wait_until: now + Duration::from_secs(ask.wait_s.into()),
            attended: ask.attended,
            asked: Default::default(),
            asked_token: None,
        };
        let inserted = self.store.insert_lease(&new).await.unwrap();
        assert!(matches!(inserted, Inserted::New(_)), "{inserted:?}");
        self.remember(new);
    }

    fn remember(&mut self, new: NewLease) {
        self.tally.asked += 1;
        self.lives.going_on.insert(new.id);
        self.lives.holders.insert(new.id, Holder::new(new));
    }

    /// Sends a request again, or another one with the same key.
    async fn ask_again(&mut self, otherwise: bool) {
        let repeatable = |holder: &&Holder| holder.asked.idempotency.is_some();
        let candidates = self.lives.holders.values().filter(repeatable);
        let Some(first) = self
            .dice
            .pick(candidates.map(|holder| holder.asked.clone()))
        else {
            return;
        };
        let mut again = NewLease {
            id: LeaseId::from_bits(self.dice.bits()),
            created_at: self.now(),
            wait_until: self.now() + (first.wait_until - first.created_at),
            ..first.clone()
        };
        if let (true, Some(idempotency)) = (otherwise, &mut again.idempotency) {
            idempotency.digest.push_str(" not");
        }
        match self.store.insert_lease(&again).await.unwrap() {
            Inserted::Conflict => assert!(otherwise, "{first:?}"),
            Inserted::Known(row) => {
                assert!(!otherwise, "{row:?}");
                assert_eq!(row.id, first.id, "the same request, another lease");
                self.see(&row).await;
            }
            Inserted::New(_) => {
                assert!(self.is_forgotten(first.id), "{first:?} is asked for twice");
                self.lives.holders.remove(&first.id);
                self.remember(again);
            }
        }
    }

    /// Whether a lease ended so long ago that its row may have been forgotten.
    fn is_forgotten(&self, id: LeaseId) -> bool {
        let row = self.lives.holders[&id].ended.as_ref();
        row.is_some_and(|row| match row.phase {
            LeasePhase::Ended { ended_at, .. } => {
                self.now() - ended_at >= time::Duration::hours(24)
            }
            _ => false,
        })
    }

    pub(super) async fn wish(&mut self, id: LeaseId, reason: EndReason) {
        let wish = self.store.wish_end(id, reason).await.unwrap();
        let holder = self.lives.holders.get_mut(&id).unwrap();
        match wish {
            Wish::Recorded => {
                assert_eq!(holder.wished.replace(reason), None, "{id} is wished twice");
                assert!(holder.end.is_none(), "{id} had ended");
            }
            Wish::AlreadyEnding => {}
            Wish::Unknown => assert!(self.is_forgotten(id), "{id} is not known"),
        }
    }

    async fn extend(&mut self, seconds: u32) {
        let Some(id) = self.somebody() else { return };
        let until = self.now() + Duration::from_secs(seconds.into());
        match self
            .store
            .extend(id, until, self.now(), &Asked::default())
            .await
            .unwrap()
        {
            Moved::Done(row) => {
                let longer = |held: &mut Held| held.expires_at = held.expires_at.max(until);
                self.promise(&row, longer).await;
            }
            Moved::NotActive(row) => self.is_not_active(&row).await,
            other => panic!("{id}: {other:?}"),
        }
    }

    async fn heartbeat(&mut self) {
        // Those who send none are asked for too, but seldom.
        let seldom = self.dice.percent(3);
        let beats = |holder: &&Holder| seldom || holder.asked.keepalive_s.is_some();
        let Some(id) = self.one_of(beats) else { return };
        let (now, expected) = (self.now(), self.lives.holders[&id].asked.keepalive_s);
        match self.store.heartbeat(id, now).await.unwrap() {
            Moved::Done(row) => {
                assert!(expected.is_some(), "{row:?}");
                self.promise(&row, |held| held.heartbeat_at = now).await;
            }
            Moved::NotActive(row) => self.is_not_active(&row).await,
            Moved::NoKeepalive => assert!(expected.is_none(), "{id}"),
            Moved::Unknown => panic!("{id} is not known"),
        }
    }

    /// The holder of an active lease was promised something new, and its row has to be just so.
    async fn promise(&mut self, row: &LeaseRow, change: impl FnOnce(&mut Held)) {
        if self.lives.holders[&row.id].held.is_none() {
            // It had its machine since the last look.
            self.see(&as_at_first(row)).await;
        }
        let holder = self.lives.holders.get_mut(&row.id).unwrap();
        assert!(holder.end.is_none() && holder.wished.is_none(), "{row:?}");
        change(holder.held.as_mut().expect("an active lease"));
        self.see(row).await;
    }

    /// Its holder was told that a lease is not active; it had better not be.
    async fn is_not_active(&mut self, row: &LeaseRow) {
        let is_active = matches!(row.phase, LeasePhase::Active(_));
        assert!(!is_active || row.end_wish.is_some(), "{row:?}");
        self.see(row).await;
    }

    /// What ended stays as it was; what is not known was forgotten.
    async fn look_up(&mut self) {
        let all = self.lives.holders.keys().copied();
        let Some(id) = self.dice.pick(all) else {
            return;
        };
        match self.store.lease(id).await.unwrap() {
            Some(row) => self.see(&row).await,
            None => {
                assert!(self.is_forgotten(id), "{id} is not known");
                self.lives.holders.remove(&id);
            }
        }
    }

    fn guest(&mut self, change: impl FnOnce(&mut SimGuest, OffsetDateTime)) {
        let now = self.now();
        if let Some(vm) = self.machine() {
            self.sim.guest(vm, |guest| change(guest, now));
        }
    }

    fn kill(&mut self, left: bool) {
        let Some(vm) = self.machine() else { return };
        self.lives.killed.insert(vm);
        self.lives.disturbed = true;
        if left {
            self.sim.crash(vm);
        } else {
            self.sim.vanish(vm);
        }
    }

    fn fault(&mut self, verb: Verb, fault: SimFault, lasts: bool) {
        self.lives.disturbed = true;
        if lasts {
            self.sim.always(None, verb, fault);
        } else {
            self.sim.inject(verb, fault);
        }
    }

    pub(super) fn is_it_low(&mut self) {
        // Whoever looked before may act on it later; whoever looks later finds it.
        if self.sim.free_bytes() < self.settings.policy.disk_reserve_bytes {
            let now = self.now();
            self.lives.low_since.get_or_insert(now);
        }
    }

    async fn pass(&mut self, seconds: u32) {
        let mut left = seconds;
        while left > 0 {
            let jump = left.min(JUMP_S);
            left -= jump;
            // What is under way may run into its limit of time.
            self.lives.disturbed = true;
            self.advance(Duration::from_secs(jump.into())).await;
            self.run_for_a_while(64).await;
        }
    }

    async fn be_away(&mut self, seconds: u32) {
        self.advance(Duration::from_secs(seconds.into())).await;
        // Machines die also while nobody looks.
        if self.dice.percent(20) {
            self.kill(false);
        }
        self.start().await;
    }

    /// One of the leases that go on, as far as it is known.
    fn somebody(&mut self) -> Option<LeaseId> {
        self.one_of(|_| true)
    }

    fn one_of(&mut self, wanted: impl Fn(&&Holder) -> bool) -> Option<LeaseId> {
        let (all, holders) = (&self.lives.going_on, &self.lives.holders);
        let ids = all.iter().filter(|id| wanted(&&holders[*id]));
        self.dice.pick(ids.copied())
    }

    /// One of the machines on the host, drawn by its place, as ids are other ones each time.
    fn machine(&mut self) -> Option<VmId> {
        let mut known: Vec<&VmRow> = self.vms.iter().collect();
        known.sort_by_key(|vm| vm.slot);
        let mut all: Vec<VmId> = known.into_iter().map(|vm| vm.id).collect();
        // And those without a row, which become templates.
        let strangers = self.sim.vms().into_iter().filter(|vm| !all.contains(vm));
        all.extend(strangers.collect::<Vec<_>>());
        self.dice.pick(all)
    }
}

/// The row of an active lease before anybody moved its deadlines.
fn as_at_first(row: &LeaseRow) -> LeaseRow {
    let mut first = row.clone();
    if let LeasePhase::Active(grant) = &mut first.phase {
        grant.expires_at = grant.ready_at + time::Duration::seconds(row.ttl_s.into());
        grant.heartbeat_at = grant.ready_at;
    }
    first
}
